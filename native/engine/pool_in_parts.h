#pragma once
#include <vector>

#include "kernels/kernel_table.h"

namespace terabag {

// Pools the jobs on up to num_threads threads, each a run of neighbouring bags with about the same number of cache lines to read. A bag is
// never cut, so that the bits do not depend on the number of threads; nor does the bad index that is reported, which is the first.
// Unless it is null, the CPU time of the other threads is added to *helpers_cpu_ns.
KernelStatus pool_in_parts(const KernelTable& kernels, const std::vector<BagJob>& jobs, unsigned num_threads, BadIndex* bad,
                           uint64_t* helpers_cpu_ns = nullptr);

}  // namespace terabag
