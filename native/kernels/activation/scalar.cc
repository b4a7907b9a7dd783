#include <cmath>
#include <cstring>

#include "kernels/activation/functions.h"

namespace terabag {
namespace {

struct Scalar {
  static constexpr uint32_t kLanes = 1;
  using Floats = float;

  static inline float load(const float* from) { return *from; }
  static inline void store(float* to, float x) { *to = x; }
  static inline float load_last(const float* from, uint32_t) { return *from; }
  static inline void store_last(float* to, float x, uint32_t) { *to = x; }

  static inline float only_first(float x, uint32_t count) { return count > 0 ? x : 0.0f; }
  static inline float largest_lane(float x) { return x; }
  static inline float sum_of_lanes(float x) { return x; }

  static inline float broadcast(float value) { return value; }
  static inline float add(float a, float b) { return a + b; }
  static inline float subtract(float a, float b) { return a - b; }
  static inline float multiply(float a, float b) { return a * b; }
  static inline float divide(float a, float b) { return a / b; }
  static inline float multiply_add(float a, float b, float c) { return a * b + c; }
  // The product of two floats is exact in double.
  static inline float product_error(float a, float b, float product) { return static_cast<float>(static_cast<double>(a) * b - product); }
  static inline float at_most(float x, float limit) { return limit < x ? limit : x; }
  static inline float at_least(float x, float limit) { return limit > x ? limit : x; }
  static inline float magnitude(float x) { return std::fabs(x); }
  static inline float with_sign_of(float x, float sign) { return std::copysign(x, sign); }
  static inline float if_less(float a, float b, float yes, float no) { return a < b ? yes : no; }
  static inline float nearest(float x) { return x + kShift - kShift; }
  // In two steps: 2^n may be no number, and the first product is exact.
  static inline float scale(float x, float n) {
    const uint32_t whole = bits_of(n + kShift) - bits_of(kShift), half = whole >> 1 | (whole & 0x80000000u);
    return x * power_of_two(half) * power_of_two(whole - half);
  }

 private:
  // Whole numbers are the last bits of what is near it, NaN too: no conversion that could be undefined.
  static constexpr float kShift = 0x1.8p23f;
  static inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  static inline float power_of_two(uint32_t n) {
    const uint32_t bits = (n + 127) << 23;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

}  // namespace

namespace scalar {
void activate(const ActivationJob& job) { Functions<Scalar>::activate(job); }
void softmax(const SoftmaxJob& job) { Functions<Scalar>::softmax(job); }
}  // namespace scalar

}  // namespace terabag
