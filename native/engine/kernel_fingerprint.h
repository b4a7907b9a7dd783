#pragma once
#include <cstdint>

#include "kernels/kernel_table.h"

namespace terabag {

// Hashes of what kernels compute of fixed inputs: builds, compilers and instruction sets whose hashes are equal give the same bits.
// Hundreds of microseconds each; throw std::bad_alloc when memory runs out. pooling: every row format, pooling and length of rows, with and
// without weights: all that a sparse shard computes.
uint64_t pooling_fingerprint(const KernelTable& kernels);
// dense: fully connected layers in float32 and dot interactions, over several numbers of rows, and activations.
uint64_t dense_fingerprint(const KernelTable& kernels);

}  // namespace terabag
