#include <arm_neon.h>

#include "kernels/activation/functions.h"

namespace terabag {
namespace {

struct Neon {
  static constexpr uint32_t kLanes = 4;
  using Floats = float32x4_t;

  static inline Floats load(const float* from) { return vld1q_f32(from); }
  static inline void store(float* to, Floats x) { vst1q_f32(to, x); }
  static inline Floats load_last(const float* from, uint32_t count) {
    float lanes[kLanes] = {};
    for (uint32_t lane = 0; lane < count; ++lane) lanes[lane] = from[lane];
    return vld1q_f32(lanes);
  }
  static inline void store_last(float* to, Floats x, uint32_t count) {
    float lanes[kLanes];
    vst1q_f32(lanes, x);
    for (uint32_t lane = 0; lane < count; ++lane) to[lane] = lanes[lane];
  }

  static inline Floats only_first(Floats x, uint32_t count) {
    float lanes[kLanes];
    vst1q_f32(lanes, x);
    return load_last(lanes, count);
  }
  static inline float largest_lane(Floats x) { return vmaxvq_f32(x); }
  static inline float sum_of_lanes(Floats x) { return vaddvq_f32(x); }

  static inline Floats broadcast(float value) { return vdupq_n_f32(value); }
  static inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static inline Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
  static inline Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
  static inline Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
  static inline Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static inline Floats product_error(Floats a, Floats b, Floats product) { return vfmaq_f32(vnegq_f32(product), a, b); }
  // NaN when one is.
  static inline Floats at_most(Floats x, Floats limit) { return vminq_f32(x, limit); }
  static inline Floats at_least(Floats x, Floats limit) { return vmaxq_f32(x, limit); }
  static inline Floats magnitude(Floats x) { return vabsq_f32(x); }
  static inline Floats with_sign_of(Floats x, Floats sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, x); }
  static inline Floats if_less(Floats a, Floats b, Floats yes, Floats no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
  static inline Floats nearest(Floats x) { return vrndnq_f32(x); }
  // In two steps: 2^n may be no number, and the first product is exact.
  static inline Floats scale(Floats x, Floats n) {
    const int32x4_t whole_i32x4 = vcvtq_s32_f32(n), half_i32x4 = vshrq_n_s32(whole_i32x4, 1);
    return vmulq_f32(vmulq_f32(x, power_of_two(half_i32x4)), power_of_two(vsubq_s32(whole_i32x4, half_i32x4)));
  }

 private:
  static inline Floats power_of_two(int32x4_t n_i32x4) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n_i32x4, vdupq_n_s32(127)), 23));
  }
};

}  // namespace

namespace neon {
void activate(const ActivationJob& job) { Functions<Neon>::activate(job); }
void softmax(const SoftmaxJob& job) { Functions<Neon>::softmax(job); }
}  // namespace neon

}  // namespace terabag
