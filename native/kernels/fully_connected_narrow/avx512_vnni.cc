#include "kernels/fully_connected_narrow/avx512_tiles.h"

namespace terabag {
namespace {

struct Int8Step {
  using Sums = __m512i;
  static inline Sums start(const NarrowJob&, uint64_t) { return _mm512_setzero_si512(); }
  static inline Sums add(Sums sums, __m512i x, __m512i weights) { return _mm512_dpbusd_epi32(sums, x, weights); }
  static inline __m512 finish(const NarrowJob& job, uint64_t row, uint64_t column, Sums sums) {
    const __m512i weight_sums = _mm512_loadu_si512(job.weight_sums + column);
    const __m512i shifted = _mm512_sub_epi32(sums, _mm512_mullo_epi32(_mm512_set1_epi32(job.zero_points[row]), weight_sums));
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(job.scales[row]), _mm512_loadu_ps(job.weight_scales + column));
    return _mm512_add_ps(_mm512_loadu_ps(job.bias + column), _mm512_mul_ps(_mm512_cvtepi32_ps(shifted), scale));
  }
};

}  // namespace

namespace avx512 {
void fully_connected_int8(const NarrowJob& job) { fully_connected_tiles<Int8Step>(job); }
}  // namespace avx512
}  // namespace terabag
