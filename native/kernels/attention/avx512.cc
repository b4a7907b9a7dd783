#include <immintrin.h>

#include "kernels/attention/loops.h"

namespace terabag {
namespace {

constexpr uint32_t kLanes = 16;

// Four rows of each 4 x 4 block in the 128-bit quarters of rows[4 q .. 4 q + 4) become its columns.
inline void transpose_quarters(__m512 (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (uint32_t q = 0; q < kLanes; q += 4) {
    const __m512d low01 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[q], rows[q + 1]));
    const __m512d high01 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[q], rows[q + 1]));
    const __m512d low23 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[q + 2], rows[q + 3]));
    const __m512d high23 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[q + 2], rows[q + 3]));
    rows[q] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
    rows[q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
    rows[q + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
    rows[q + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
  }
}

// 16 x 16: rows[k][p] becomes rows[p][k].
inline void transpose(__m512 (&rows)[kLanes]) {
  transpose_quarters(rows);
#pragma GCC unroll 4
  for (uint32_t k = 0; k < 4; ++k) {
    const __m512 a = rows[k], b = rows[k + 4], c = rows[k + 8], d = rows[k + 12];
    const __m512 even_ab = _mm512_shuffle_f32x4(a, b, 0x88), odd_ab = _mm512_shuffle_f32x4(a, b, 0xdd);
    const __m512 even_cd = _mm512_shuffle_f32x4(c, d, 0x88), odd_cd = _mm512_shuffle_f32x4(c, d, 0xdd);
    rows[k] = _mm512_shuffle_f32x4(even_ab, even_cd, 0x88);
    rows[k + 4] = _mm512_shuffle_f32x4(odd_ab, odd_cd, 0x88);
    rows[k + 8] = _mm512_shuffle_f32x4(even_ab, even_cd, 0xdd);
    rows[k + 12] = _mm512_shuffle_f32x4(odd_ab, odd_cd, 0xdd);
  }
}

// The contract's pack_keys, 16 positions x 16 values at a time. Panels are whole vectors.
void pack_keys_transposed(const PackRowsJob& job) {
  const __m512 scale_f32x16 = _mm512_set1_ps(job.scale);
  const uint64_t width = job.width, dim = job.dim, padded = (job.positions + width - 1) / width * width;
  for (uint64_t first = 0; first < padded; first += kLanes) {
    const float* x = job.x + first * job.stride;
    float* out = job.out + first / width * width * dim + first % width;
    for (uint64_t k = 0; k < dim; k += kLanes) {
      const auto values = static_cast<uint32_t>(dim - k < kLanes ? dim - k : kLanes);
      const auto mask = static_cast<__mmask16>((1u << values) - 1);
      __m512 rows[kLanes];
#pragma GCC unroll 16
      for (uint32_t p = 0; p < kLanes; ++p) {
        rows[p] = first + p < job.positions ? _mm512_mul_ps(scale_f32x16, _mm512_maskz_loadu_ps(mask, x + p * job.stride + k))
                                            : _mm512_setzero_ps();
      }
      transpose(rows);
#pragma GCC unroll 16
      for (uint32_t v = 0; v < kLanes; ++v) {
        if (v < values) _mm512_storeu_ps(out + (k + v) * width, rows[v]);
      }
    }
  }
}

}  // namespace

namespace avx512 {
const AttentionKernels attention = {fold_query, pack_keys_transposed, pack_values, sum_rows};
}  // namespace avx512

}  // namespace terabag
