#include <immintrin.h>

#include "kernels/embedding_bag/pool_rows.h"

namespace terabag {
namespace {

struct Avx512 {
  static constexpr uint32_t kLanes = 16;
  // Rows up to dim 128 are read in one pass, and 8 chains hide the FMA latency.
  static constexpr uint32_t kMaxVectors = 8;
  using Floats = __m512;

  struct Last {
    explicit Last(uint32_t count) : mask(static_cast<__mmask16>(0xffffu >> (kLanes - count))) {}
    __mmask16 mask;
  };

  static inline Floats zero() { return _mm512_setzero_ps(); }
  static inline Floats broadcast(float value) { return _mm512_set1_ps(value); }
  static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static inline Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static inline Floats larger(Floats a, Floats b) {
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
  }
  static inline Floats load_floats(const float* from) { return _mm512_loadu_ps(from); }
  static inline void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }
  static inline void store_last(float* to, Floats values, Last last) { _mm512_mask_storeu_ps(to, last.mask, values); }

  template <RowFormat format>
  static inline RowScale row_scale(const unsigned char* row, uint32_t dim) {
    const unsigned char* at = row + value_bytes(format, dim);
    if constexpr (info_of(format).scale_and_bias == ScaleAndBias::kFloats) return {load<float>(at), load<float>(at + 4)};
    const __m128 both_f32x4 = _mm_cvtph_ps(_mm_cvtsi32_si128(load<int32_t>(at)));
    return {_mm_cvtss_f32(both_f32x4), _mm_cvtss_f32(_mm_movehdup_ps(both_f32x4))};
  }

  // Sums of int4 rows are kept as (0, 8, 1, 9, ...), which saves spreading a row's bytes over the lanes.
  template <RowFormat format>
  static inline Floats in_order(Floats sum) {
    if constexpr (format != RowFormat::kInt4) return sum;
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), sum);
  }

  // int4: the products of the 16 values that there are, which lane q of a row's value then picks.
  template <RowFormat format>
  static inline Floats factor(float weight) {
    const __m512 weight_f32x16 = _mm512_set1_ps(weight);
    if constexpr (format != RowFormat::kInt4) return weight_f32x16;
    return _mm512_mul_ps(weight_f32x16, _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  }

  template <RowFormat format>
  static inline Floats accumulate(Floats sum, Floats factor, const unsigned char* row, uint32_t d) {
    if constexpr (format == RowFormat::kInt4) {
      return add_int4(sum, factor, load<int64_t>(row + d / 2));
    } else if constexpr (format == RowFormat::kFp32) {
      return _mm512_fmadd_ps(factor, _mm512_loadu_ps(row + static_cast<uint64_t>(d) * 4), sum);
    } else if constexpr (holds_bytes(format)) {
      return _mm512_fmadd_ps(factor, from_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + d))), sum);
    } else {
      const __m256i raw_u16x16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + static_cast<uint64_t>(d) * 2));
      return _mm512_fmadd_ps(factor, from_16_bits<format>(raw_u16x16), sum);
    }
  }

  template <RowFormat format>
  static inline Floats accumulate_last(Floats sum, Floats factor, const unsigned char* row, uint32_t d, Last last) {
    if constexpr (format == RowFormat::kInt4) {
      // Beyond the values lie 4 bytes of scale and bias: of up to 8 values, 4 bytes stay in the row, of more 8 do.
      const int64_t raw = last.mask > 0xff ? load<int64_t>(row + d / 2) : load<int32_t>(row + d / 2);
      return add_int4(sum, factor, raw);
    } else if constexpr (format == RowFormat::kFp32) {
      return _mm512_fmadd_ps(factor, _mm512_maskz_loadu_ps(last.mask, row + static_cast<uint64_t>(d) * 4), sum);
    } else if constexpr (holds_bytes(format)) {
      return _mm512_fmadd_ps(factor, from_bytes(_mm_maskz_loadu_epi8(last.mask, row + d)), sum);
    } else {
      return _mm512_fmadd_ps(factor, from_16_bits<format>(_mm256_maskz_loadu_epi16(last.mask, row + static_cast<uint64_t>(d) * 2)), sum);
    }
  }

 private:
  template <RowFormat format>
  static inline Floats from_16_bits(__m256i raw_u16x16) {
    if constexpr (format == RowFormat::kFp16) {
      return _mm512_cvtph_ps(raw_u16x16);
    } else if constexpr (format == RowFormat::kBf16) {
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw_u16x16), 16));
    } else {
      static_assert(kUnknownFormat<format>, "a row format without loads for avx512");
    }
  }
  static inline Floats from_bytes(__m128i raw_u8x16) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(raw_u8x16)); }

  // 16 values of 4 bits each lie in every 64 bits: even lanes take theirs from the low half, odd ones from the high half. A permutation
  // looks at the low 4 bits of a lane only.
  static inline Floats add_int4(Floats sum, Floats products, int64_t raw) {
    const __m512i shifts_i32x16 = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    return _mm512_add_ps(sum, _mm512_permutexvar_ps(_mm512_srlv_epi32(_mm512_set1_epi64(raw), shifts_i32x16), products));
  }
};

}  // namespace

namespace avx512 {
KernelStatus pool_bags(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad) { return RowPooler<Avx512>::pool_bags(jobs, num_jobs, bad); }
}  // namespace avx512
}  // namespace terabag
