#pragma once
#include <cstdint>
#include <vector>

#include "kernels/kernel_table.h"

namespace terabag {

// The prefetch distance that pools random rows of a table fastest on this machine, and how fast.
struct TunedPrefetch {
  Prefetch prefetch;
  double ns_per_lookup = 0;
};

// A table smaller than this lives in the caches, where the distance does not matter and could not be measured.
constexpr uint64_t kMinTunedBytes = 64 << 20;

// Measures some distances in turn, several rounds of random ids each, and takes the best median; some milliseconds. table names rows,
// num_rows, row_pitch, dim and format; its rows should be in memory. May throw std::bad_alloc.
TunedPrefetch tune_prefetch(const KernelTable& kernels, const BagJob& table);

}  // namespace terabag
