#include <immintrin.h>

#include "kernels/activation/functions.h"

namespace terabag {
namespace {

struct Avx2 {
  static constexpr uint32_t kLanes = 8;
  using Floats = __m256;

  static inline __m256i first(uint32_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static inline void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
  static inline Floats load_last(const float* from, uint32_t count) { return _mm256_maskload_ps(from, first(count)); }
  static inline void store_last(float* to, Floats x, uint32_t count) { _mm256_maskstore_ps(to, first(count), x); }

  static inline Floats only_first(Floats x, uint32_t count) { return _mm256_and_ps(x, _mm256_castsi256_ps(first(count))); }
  static inline float largest_lane(Floats x) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
  }
  static inline float sum_of_lanes(Floats x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }

  static inline Floats broadcast(float value) { return _mm256_set1_ps(value); }
  static inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static inline Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static inline Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  static inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static inline Floats product_error(Floats a, Floats b, Floats product) { return _mm256_fmsub_ps(a, b, product); }
  // The second operand is the result when one is NaN.
  static inline Floats at_most(Floats x, Floats limit) { return _mm256_min_ps(limit, x); }
  static inline Floats at_least(Floats x, Floats limit) { return _mm256_max_ps(limit, x); }
  static inline Floats magnitude(Floats x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static inline Floats with_sign_of(Floats x, Floats sign) { return _mm256_or_ps(x, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign)); }
  static inline Floats if_less(Floats a, Floats b, Floats yes, Floats no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static inline Floats nearest(Floats x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // In two steps: 2^n may be no number, and the first product is exact.
  static inline Floats scale(Floats x, Floats n) {
    const __m256i whole_i32x8 = _mm256_cvtps_epi32(n), half_i32x8 = _mm256_srai_epi32(whole_i32x8, 1);
    return _mm256_mul_ps(_mm256_mul_ps(x, power_of_two(half_i32x8)), power_of_two(_mm256_sub_epi32(whole_i32x8, half_i32x8)));
  }

 private:
  static inline Floats power_of_two(__m256i n_i32x8) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n_i32x8, _mm256_set1_epi32(127)), 23));
  }
};

}  // namespace

namespace avx2 {
void activate(const ActivationJob& job) { Functions<Avx2>::activate(job); }
void softmax(const SoftmaxJob& job) { Functions<Avx2>::softmax(job); }
}  // namespace avx2

}  // namespace terabag
