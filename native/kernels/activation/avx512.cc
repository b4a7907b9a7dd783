#include <immintrin.h>

#include "kernels/activation/functions.h"

namespace terabag {
namespace {

struct Avx512 {
  static constexpr uint32_t kLanes = 16;
  using Floats = __m512;

  static inline __mmask16 first(uint32_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  static inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
  static inline Floats load_last(const float* from, uint32_t count) { return _mm512_maskz_loadu_ps(first(count), from); }
  static inline void store_last(float* to, Floats x, uint32_t count) { _mm512_mask_storeu_ps(to, first(count), x); }

  static inline Floats only_first(Floats x, uint32_t count) { return _mm512_maskz_mov_ps(first(count), x); }
  static inline float largest_lane(Floats x) { return _mm512_reduce_max_ps(x); }
  static inline float sum_of_lanes(Floats x) { return _mm512_reduce_add_ps(x); }

  static inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
  static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static inline Floats product_error(Floats a, Floats b, Floats product) { return _mm512_fmsub_ps(a, b, product); }
  // The second operand is the result when one is NaN.
  static inline Floats at_most(Floats x, Floats limit) { return _mm512_min_ps(limit, x); }
  static inline Floats at_least(Floats x, Floats limit) { return _mm512_max_ps(limit, x); }
  static inline Floats magnitude(Floats x) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), x); }
  static inline Floats with_sign_of(Floats x, Floats sign) { return _mm512_or_ps(x, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign)); }
  static inline Floats if_less(Floats a, Floats b, Floats yes, Floats no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  static inline Floats nearest(Floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static inline Floats scale(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }
};

}  // namespace

namespace avx512 {
void activate(const ActivationJob& job) { Functions<Avx512>::activate(job); }
void softmax(const SoftmaxJob& job) { Functions<Avx512>::softmax(job); }
}  // namespace avx512

}  // namespace terabag
