#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/embedding_bag.h"

// Plain reads shared by the embedding bag kernels; static, so that each instruction set keeps its own copy.
namespace terabag {

template <typename T>
static inline T load(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

static inline int64_t load_index(const BagJob& job, uint64_t position) {
  int64_t index = job.index_bytes == 4 ? load<int32_t>(job.indices + position * 4) : load<int64_t>(job.indices + position * 8);
  // Keeps the compiler from reading it a second time after the check: the buffer may change meanwhile.
  __asm__("" : "+r"(index));
  return index;
}

static inline float load_weight(const BagJob& job, uint64_t position) {
  return job.weights == nullptr ? 1.0f : load<float>(job.weights + position * 4);
}

static inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  uint32_t bits;
  if (exponent == 0x1f) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // Exact: subnormal halves are multiples of 2^-24.
    std::memcpy(&bits, &magnitude, sizeof bits);
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float row_value(const unsigned char* row, RowFormat format, uint32_t d) {
  if (format == RowFormat::kFp32) return load<float>(row + static_cast<uint64_t>(d) * 4);
  const uint16_t raw = load<uint16_t>(row + static_cast<uint64_t>(d) * 2);
  if (format == RowFormat::kFp16) return half_to_float(raw);
  const uint32_t bits = static_cast<uint32_t>(raw) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace terabag
