#include <arm_neon.h>

#include "kernels/embedding_bag/pool_rows.h"

namespace terabag {
namespace {

struct Neon {
  static constexpr uint32_t kLanes = 4;
  // 16 of the 32 registers: rows up to dim 64 are read in one pass.
  static constexpr uint32_t kMaxVectors = 16;
  using Floats = float32x4_t;

  struct Last {
    explicit Last(uint32_t number) : count(number) {}
    uint32_t count;
  };

  static inline Floats zero() { return vdupq_n_f32(0.0f); }
  static inline Floats broadcast(float value) { return vdupq_n_f32(value); }
  static inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static inline Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
  static inline Floats larger(Floats a, Floats b) { return vmaxq_f32(a, b); }
  static inline Floats load_floats(const float* from) { return vld1q_f32(from); }
  static inline void store(float* to, Floats values) { vst1q_f32(to, values); }
  static inline void store_last(float* to, Floats values, Last last) {
    if (last.count == kLanes) return store(to, values);
    float lanes[kLanes];
    vst1q_f32(lanes, values);
    std::memcpy(to, lanes, last.count * sizeof(float));
  }

  template <RowFormat format>
  static inline RowScale row_scale(const unsigned char* row, uint32_t dim) {
    const unsigned char* at = row + value_bytes(format, dim);
    if constexpr (info_of(format).scale_and_bias == ScaleAndBias::kFloats) return {load<float>(at), load<float>(at + 4)};
    const float32x4_t both_f32x4 = vcvt_f32_f16(vreinterpret_f16_u32(vdup_n_u32(load<uint32_t>(at))));
    return {vgetq_lane_f32(both_f32x4, 0), vgetq_lane_f32(both_f32x4, 1)};
  }

  template <RowFormat>
  static inline Floats in_order(Floats sum) {
    return sum;
  }

  template <RowFormat>
  static inline Floats factor(float weight) {
    return vdupq_n_f32(weight);
  }

  template <RowFormat format>
  static inline Floats accumulate(Floats sum, Floats factor, const unsigned char* row, uint32_t d) {
    if constexpr (format == RowFormat::kInt4) {
      return vaddq_f32(sum, vmulq_f32(factor, from_int4(load<uint16_t>(row + d / 2))));
    } else {
      return vfmaq_f32(sum, factor, values<format>(row, d));
    }
  }

  template <RowFormat format>
  static inline Floats accumulate_last(Floats sum, Floats factor, const unsigned char* row, uint32_t d, Last last) {
    // Beyond the values of a quantized row lie scale and bias, so that these loads stay in it.
    if (is_quantized(format) || last.count == kLanes) return accumulate<format>(sum, factor, row, d);
    unsigned char whole[16] = {};
    const uint64_t value_bytes = bytes_per_row(format, 1);
    std::memcpy(whole, row + d * value_bytes, last.count * value_bytes);
    return accumulate<format>(sum, factor, whole, 0);
  }

 private:
  // 4 values of 4 bits each, the first in the lowest.
  static inline Floats from_int4(uint16_t raw) {
    static constexpr int32_t kShifts[4] = {0, -4, -8, -12};
    return vcvtq_f32_u32(vandq_u32(vshlq_u32(vdupq_n_u32(raw), vld1q_s32(kShifts)), vdupq_n_u32(15)));
  }

  static inline uint16x4_t from_16_bits(const unsigned char* row, uint32_t d) {
    return vreinterpret_u16_u8(vld1_u8(row + static_cast<uint64_t>(d) * 2));
  }

  template <RowFormat format>
  static inline Floats values(const unsigned char* row, uint32_t d) {
    if constexpr (format == RowFormat::kFp32) {
      return vreinterpretq_f32_u8(vld1q_u8(row + static_cast<uint64_t>(d) * 4));
    } else if constexpr (holds_bytes(format)) {
      const uint8x8_t raw_u8x8 = vreinterpret_u8_u32(vdup_n_u32(load<uint32_t>(row + d)));
      return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(raw_u8x8))));
    } else if constexpr (format == RowFormat::kFp16) {
      return vcvt_f32_f16(vreinterpret_f16_u16(from_16_bits(row, d)));
    } else if constexpr (format == RowFormat::kBf16) {
      return vreinterpretq_f32_u32(vshll_n_u16(from_16_bits(row, d), 16));
    } else {
      static_assert(kUnknownFormat<format>, "a row format without loads for neon");
    }
  }
};

}  // namespace

namespace neon {
KernelStatus pool_bags(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad) { return RowPooler<Neon>::pool_bags(jobs, num_jobs, bad); }
}  // namespace neon
}  // namespace terabag
