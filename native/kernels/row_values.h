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

static inline float bf16_to_float(uint16_t raw) {
  const uint32_t bits = static_cast<uint32_t>(raw) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline bool is_quantized(RowFormat format) { return format >= RowFormat::kInt8; }

// Scale and bias of a quantized row.
struct RowScale {
  float scale;
  float bias;
};

static inline RowScale row_scale(const unsigned char* row, RowFormat format, uint32_t dim) {
  if (format == RowFormat::kInt8) return {load<float>(row + dim), load<float>(row + dim + 4)};
  const unsigned char* at = row + (format == RowFormat::kInt8Fp16 ? dim : (dim + 1) / 2);
  return {half_to_float(load<uint16_t>(at)), half_to_float(load<uint16_t>(at + 2))};
}

// Value d of a row; of a quantized one the integer q[d].
static inline float row_value(const unsigned char* row, RowFormat format, uint32_t d) {
  switch (format) {
    case RowFormat::kFp32: return load<float>(row + static_cast<uint64_t>(d) * 4);
    case RowFormat::kFp16: return half_to_float(load<uint16_t>(row + static_cast<uint64_t>(d) * 2));
    case RowFormat::kBf16: return bf16_to_float(load<uint16_t>(row + static_cast<uint64_t>(d) * 2));
    case RowFormat::kInt8:
    case RowFormat::kInt8Fp16: return row[d];
    case RowFormat::kInt4: return static_cast<float>(d % 2 == 0 ? row[d / 2] & 15 : row[d / 2] >> 4);
  }
  return 0.0f;
}

}  // namespace terabag
