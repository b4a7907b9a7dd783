#pragma once
#include "kernels/attention.h"

// The contract as plain loops, which the compiler vectorises for the instruction set of the file that includes them: each is a small part
// of an attention, and its inner loop runs over floats that lie side by side. Static, since every file has to keep its own.
namespace terabag {
namespace {

void fold_query(const FoldQueryJob& job) {
  const uint64_t width = job.width;
  for (uint32_t panel = 0; panel < job.panels; ++panel) {
    for (uint32_t k = 0; k < job.dim; ++k) {
      const uint64_t at = (static_cast<uint64_t>(panel) * job.dim + k) * width;
      const float* __restrict keys = job.keys + at;
      const float* __restrict products = job.products + at;
      float* __restrict out = job.out + at;
      const float query = job.query[k];
      for (uint64_t w = 0; w < width; ++w) out[w] = keys[w] + query * products[w];
    }
  }
}

// An instruction set may have its own.
[[maybe_unused]] void pack_keys(const PackRowsJob& job) {
  const uint64_t width = job.width, dim = job.dim;
  for (uint64_t first = 0; first < job.positions; first += width) {
    const uint64_t rows = job.positions - first < width ? job.positions - first : width;
    const float* x = job.x + first * job.stride;
    float* __restrict out = job.out + first * dim;
    for (uint64_t k = 0; k < dim; ++k, out += width) {
      for (uint64_t p = 0; p < rows; ++p) out[p] = job.scale * x[p * job.stride + k];
      for (uint64_t p = rows; p < width; ++p) out[p] = 0.0f;
    }
  }
}

void pack_values(const PackRowsJob& job) {
  const uint64_t width = job.width;
  float* __restrict out = job.out;
  for (uint64_t first = 0; first < job.dim; first += width) {
    const uint64_t columns = job.dim - first < width ? job.dim - first : width;
    const float* __restrict x = job.x + first;
    for (uint64_t p = 0; p < job.positions; ++p, x += job.stride, out += width) {
      for (uint64_t d = 0; d < columns; ++d) out[d] = x[d];
      for (uint64_t d = columns; d < width; ++d) out[d] = 0.0f;
    }
  }
}

void sum_rows(const SumRowsJob& job) {
  // Sums of so many values stay in registers from position to position.
  constexpr uint32_t kValues = 32;
  for (uint32_t first = 0; first < job.dim; first += kValues) {
    const uint32_t columns = job.dim - first < kValues ? job.dim - first : kValues;
    const float* __restrict x = job.x + first;
    float sums[kValues] = {};
    if (columns == kValues) {
      for (uint64_t p = 0; p < job.positions; ++p, x += job.stride) {
        const float score = job.scores[p * job.score_stride];
        for (uint32_t d = 0; d < kValues; ++d) sums[d] = sums[d] + score * x[d];
      }
    } else {
      for (uint64_t p = 0; p < job.positions; ++p, x += job.stride) {
        const float score = job.scores[p * job.score_stride];
        for (uint32_t d = 0; d < columns; ++d) sums[d] = sums[d] + score * x[d];
      }
    }
    for (uint32_t d = 0; d < columns; ++d) job.out[first + d] = sums[d];
  }
}

}  // namespace
}  // namespace terabag
