#include "kernels/dot_interaction.h"

#include <immintrin.h>

namespace terabag {
namespace {

constexpr uint32_t kLanes = 8;
// 2 x 4 pairs a block: 8 chains hide the latency of 2 FMA ports x 4 cycles, and 8 sums, 4 + 1 values fit in 16 registers.
constexpr uint32_t kRows = 2, kColumns = 4;

// Selects the first `count` of 8 lanes.
inline __m256i lanes_below(uint32_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Sums of 4 registers, one a lane: a fixed tree over the lanes of each.
inline __m128 lane_sums_f32x4(const __m256* sum_f32x8) {
  const __m256 by_register_f32x8 = _mm256_hadd_ps(_mm256_hadd_ps(sum_f32x8[0], sum_f32x8[1]), _mm256_hadd_ps(sum_f32x8[2], sum_f32x8[3]));
  return _mm_add_ps(_mm256_castps256_ps128(by_register_f32x8), _mm256_extractf128_ps(by_register_f32x8, 1));
}

// Pairs of vectors i..i + 2 with vectors j..j + 4, as far as there are such pairs. A block on the edge computes its last vector again
// instead of none, so that every pair goes the same way.
inline void block(const DotInteractionJob& job, uint32_t item, uint32_t i, uint32_t j) {
  const uint64_t stride = stacked_stride(job.dim);
  const float *a[kRows], *b[kColumns];
#pragma GCC unroll 2
  for (uint32_t r = 0; r < kRows; ++r) a[r] = job.scratch + (i + r < job.num_vectors ? i + r : job.num_vectors - 1) * stride;
#pragma GCC unroll 4
  for (uint32_t c = 0; c < kColumns; ++c) b[c] = job.scratch + (j + c < job.num_vectors ? j + c : job.num_vectors - 1) * stride;
  __m256 sum_f32x8[kRows][kColumns];
#pragma GCC unroll 2
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kColumns; ++c) sum_f32x8[r][c] = _mm256_setzero_ps();
  }
  for (uint32_t d = 0; d < job.dim; d += kLanes) {
    __m256 a_f32x8[kRows];
#pragma GCC unroll 2
    for (uint32_t r = 0; r < kRows; ++r) a_f32x8[r] = _mm256_loadu_ps(a[r] + d);
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kColumns; ++c) {
      const __m256 b_f32x8 = _mm256_loadu_ps(b[c] + d);
#pragma GCC unroll 2
      for (uint32_t r = 0; r < kRows; ++r) sum_f32x8[r][c] = _mm256_fmadd_ps(a_f32x8[r], b_f32x8, sum_f32x8[r][c]);
    }
  }
#pragma GCC unroll 2
  for (uint32_t r = 0; r < kRows; ++r) {
    const uint32_t end = job.diagonal ? i + r + 1 : i + r;
    if (i + r >= job.num_vectors || end <= j) continue;
    float* to = pairs_of(job, item, i + r) + j;
    const __m128 dots_f32x4 = lane_sums_f32x4(sum_f32x8[r]);
    if (end - j >= kColumns) {
      _mm_storeu_ps(to, dots_f32x4);
    } else {
      _mm_maskstore_ps(to, _mm256_castsi256_si128(lanes_below(end - j)), dots_f32x4);
    }
  }
}

}  // namespace

namespace avx2 {

void dot_interaction(const DotInteractionJob& job) {
  for (uint32_t item = 0; item < job.num_items; ++item) {
    stack_vectors(job, item);
    for (uint32_t d = 0; d < job.dim; ++d) job.out[item * job.out_stride + d] = job.scratch[d];
    for (uint32_t i = 0; i < job.num_vectors; i += kRows) {
      for (uint32_t j = 0; j < i + kRows; j += kColumns) block(job, item, i, j);
    }
  }
}

}  // namespace avx2
}  // namespace terabag
