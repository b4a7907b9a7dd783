#include <immintrin.h>

#include "kernels/embedding_bag/pool_rows.h"

namespace terabag {
namespace {

struct Avx2 {
  static constexpr uint32_t kLanes = 8;
  // 8 of the 16 registers, which leaves room for rows and factor, and hides the FMA latency.
  static constexpr uint32_t kMaxVectors = 8;
  using Floats = __m256;

  struct Last {
    explicit Last(uint32_t number) : count(number) {}
    uint32_t count;
  };

  static inline Floats zero() { return _mm256_setzero_ps(); }
  static inline Floats broadcast(float value) { return _mm256_set1_ps(value); }
  static inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static inline Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  static inline Floats larger(Floats a, Floats b) {
    return _mm256_blendv_ps(b, a, _mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ), _mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
  }
  static inline Floats load_floats(const float* from) { return _mm256_loadu_ps(from); }
  static inline void store(float* to, Floats values) { _mm256_storeu_ps(to, values); }
  static inline void store_last(float* to, Floats values, Last last) {
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(last.count)), lanes()), values);
  }

  template <RowFormat format>
  static inline RowScale row_scale(const unsigned char* row, uint32_t dim) {
    const unsigned char* at = row + value_bytes(format, dim);
    if constexpr (info_of(format).scale_and_bias == ScaleAndBias::kFloats) return {load<float>(at), load<float>(at + 4)};
    const __m128 both_f32x4 = _mm_cvtph_ps(_mm_cvtsi32_si128(load<int32_t>(at)));
    return {_mm_cvtss_f32(both_f32x4), _mm_cvtss_f32(_mm_movehdup_ps(both_f32x4))};
  }

  template <RowFormat>
  static inline Floats in_order(Floats sum) {
    return sum;
  }

  template <RowFormat>
  static inline Floats factor(float weight) {
    return _mm256_set1_ps(weight);
  }

  template <RowFormat format>
  static inline Floats accumulate(Floats sum, Floats factor, const unsigned char* row, uint32_t d) {
    if constexpr (format == RowFormat::kInt4) {
      return _mm256_add_ps(sum, _mm256_mul_ps(factor, from_int4(load<int32_t>(row + d / 2))));
    } else {
      return _mm256_fmadd_ps(factor, values<format>(row, d), sum);
    }
  }

  template <RowFormat format>
  static inline Floats accumulate_last(Floats sum, Floats factor, const unsigned char* row, uint32_t d, Last last) {
    // Beyond the values of an int4 or int8 row lie scale and bias, so that these loads stay in it.
    if constexpr (format == RowFormat::kInt4 || format == RowFormat::kInt8) {
      return accumulate<format>(sum, factor, row, d);
    } else {
      if (last.count == kLanes) return accumulate<format>(sum, factor, row, d);
      if constexpr (holds_bytes(format)) {
        const __m128i raw_u8x8 = last.count < 4 ? _mm_cvtsi32_si128(load<int32_t>(row + d)) : _mm_loadl_epi64(as_vector(row + d));
        return _mm256_fmadd_ps(factor, from_bytes(raw_u8x8), sum);
      } else {
        return _mm256_fmadd_ps(factor, last_values<format>(row, last.count), sum);
      }
    }
  }

 private:
  static inline const __m128i* as_vector(const unsigned char* from) { return reinterpret_cast<const __m128i*>(from); }
  static inline __m256i lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static inline __m128i from_16_bits(const unsigned char* row, uint32_t d) {
    return _mm_loadu_si128(as_vector(row + static_cast<uint64_t>(d) * 2));
  }
  static inline Floats from_bytes(__m128i raw_u8x8) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(raw_u8x8)); }

  // 8 values of 4 bits each, the first in the lowest.
  static inline Floats from_int4(int32_t raw) {
    const __m256i shifts_i32x8 = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(raw), shifts_i32x8), _mm256_set1_epi32(15)));
  }

  template <RowFormat format>
  static inline Floats values(const unsigned char* row, uint32_t d) {
    if constexpr (format == RowFormat::kFp32) {
      return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + d);
    } else if constexpr (holds_bytes(format)) {
      return from_bytes(_mm_loadl_epi64(as_vector(row + d)));
    } else if constexpr (format == RowFormat::kFp16) {
      return _mm256_cvtph_ps(from_16_bits(row, d));
    } else if constexpr (format == RowFormat::kBf16) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(from_16_bits(row, d)), 16));
    } else {
      static_assert(kUnknownFormat<format>, "a row format without loads for avx2");
    }
  }

  template <RowFormat format>
  static inline Floats last_values(const unsigned char* row, uint32_t count) {
    alignas(32) unsigned char whole[32] = {};
    std::memcpy(whole, row, bytes_per_row(format, count < kLanes ? count : kLanes));
    return values<format>(whole, 0);
  }
};

}  // namespace

namespace avx2 {
KernelStatus pool_bags(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad) { return RowPooler<Avx2>::pool_bags(jobs, num_jobs, bad); }
}  // namespace avx2
}  // namespace terabag
