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

}  // namespace terabag
