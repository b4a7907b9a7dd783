#pragma once
#include "kernels/embedding_bag.h"

// Reads of a job's ids and weights, shared by the embedding bag kernels; static, so that each instruction set keeps its own copy.
namespace terabag {

static inline int64_t load_index(const BagJob& job, uint64_t position) {
  int64_t index = job.index_bytes == 4 ? load<int32_t>(job.indices + position * 4) : load<int64_t>(job.indices + position * 8);
  // Keeps the compiler from reading it a second time after the check: the buffer may change meanwhile.
  __asm__("" : "+r"(index));
  return index;
}

static inline float load_weight(const BagJob& job, uint64_t position) {
  return job.weights == nullptr ? 1.0f : load<float>(job.weights + position * 4);
}

// Apart from the loops over rows, which it would make longer.
static __attribute__((noinline)) float sum_of_weights(const BagJob& job, uint64_t at, uint32_t count) {
  float sum = 0.0f;
  for (uint32_t i = 0; i < count; ++i) sum += load_weight(job, at + i);
  return sum;
}

// What a mean of the ids [at, at + count) is divided by.
static inline float divisor_of(const BagJob& job, uint64_t at, uint32_t count) {
  return job.pooling == Pooling::kWeightedMean ? sum_of_weights(job, at, count) : static_cast<float>(count);
}

// Whether the sum of a bag is divided, or given with what it is to be divided by.
static inline bool has_divisor(const BagJob& job) { return job.pooling != Pooling::kSum || job.divisor; }

}  // namespace terabag
