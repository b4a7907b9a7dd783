#include "kernels/dot_interaction.h"

#include <immintrin.h>

namespace terabag {
namespace {

constexpr uint32_t kLanes = 16;
// 4 x 4 pairs a block: 16 chains hide the FMA latency, and every vector that is loaded serves 4 pairs.
constexpr uint32_t kBlock = 4;

// Sums of 4 registers, one a lane: a fixed tree over the lanes of each.
inline __m128 lane_sums_f32x4(const __m512* sum_f32x16) {
  const __m512 low_f32x16 =
      _mm512_add_ps(_mm512_unpacklo_ps(sum_f32x16[0], sum_f32x16[1]), _mm512_unpackhi_ps(sum_f32x16[0], sum_f32x16[1]));
  const __m512 high_f32x16 =
      _mm512_add_ps(_mm512_unpacklo_ps(sum_f32x16[2], sum_f32x16[3]), _mm512_unpackhi_ps(sum_f32x16[2], sum_f32x16[3]));
  // Every 128 bits now hold 2 partial sums of each register; these take the first and the second of each.
  const __m512 by_register_f32x16 =
      _mm512_add_ps(_mm512_shuffle_ps(low_f32x16, high_f32x16, 0x44), _mm512_shuffle_ps(low_f32x16, high_f32x16, 0xee));
  const __m256 half_f32x8 = _mm256_add_ps(_mm512_castps512_ps256(by_register_f32x16), _mm512_extractf32x8_ps(by_register_f32x16, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half_f32x8), _mm256_extractf128_ps(half_f32x8, 1));
}

// Pairs of vectors i..i + 4 with vectors j..j + 4, as far as there are such pairs. A block on the edge computes its last vector again
// instead of none, so that every pair goes the same way.
inline void block(const DotInteractionJob& job, uint32_t i, uint32_t j) {
  const float *a[kBlock], *b[kBlock];
#pragma GCC unroll 4
  for (uint32_t v = 0; v < kBlock; ++v) {
    a[v] = job.vectors[i + v < job.num_vectors ? i + v : job.num_vectors - 1];
    b[v] = job.vectors[j + v < job.num_vectors ? j + v : job.num_vectors - 1];
  }
  __m512 sum_f32x16[kBlock][kBlock];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kBlock; ++r) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kBlock; ++c) sum_f32x16[r][c] = _mm512_setzero_ps();
  }
  for (uint32_t d = 0; d < job.dim; d += kLanes) {
    const __mmask16 mask = job.dim - d >= kLanes ? 0xffff : static_cast<__mmask16>((1u << (job.dim - d)) - 1);
    __m512 b_f32x16[kBlock];
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kBlock; ++c) b_f32x16[c] = _mm512_maskz_loadu_ps(mask, b[c] + d);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kBlock; ++r) {
      const __m512 a_f32x16 = _mm512_maskz_loadu_ps(mask, a[r] + d);
#pragma GCC unroll 4
      for (uint32_t c = 0; c < kBlock; ++c) sum_f32x16[r][c] = _mm512_fmadd_ps(a_f32x16, b_f32x16[c], sum_f32x16[r][c]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kBlock; ++r) {
    const uint32_t end = job.diagonal ? i + r + 1 : i + r;
    if (i + r >= job.num_vectors || end <= j) continue;
    float* to = pairs_of(job, i + r) + j;
    const __m128 dots_f32x4 = lane_sums_f32x4(sum_f32x16[r]);
    if (end - j >= kBlock) {
      _mm_storeu_ps(to, dots_f32x4);
    } else {
      _mm_mask_storeu_ps(to, static_cast<__mmask8>((1u << (end - j)) - 1), dots_f32x4);
    }
  }
}

}  // namespace

namespace avx512 {

void dot_interaction(const DotInteractionJob& job) {
  for (uint32_t d = 0; d < job.dim; d += kLanes) {
    const __mmask16 mask = job.dim - d >= kLanes ? 0xffff : static_cast<__mmask16>((1u << (job.dim - d)) - 1);
    _mm512_mask_storeu_ps(job.out + d, mask, _mm512_maskz_loadu_ps(mask, job.vectors[0] + d));
  }
  for (uint32_t i = 0; i < job.num_vectors; i += kBlock) {
    for (uint32_t j = 0; j <= i; j += kBlock) block(job, i, j);
  }
}

}  // namespace avx512
}  // namespace terabag
