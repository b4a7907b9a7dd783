#pragma once
#include <cstdint>
#include <cstring>

// The one table of row formats. src/model/formats.ts has the same table, and refuses an addon whose table differs. To add a format: a line
// here and its arithmetic in row_value below, the vector loads in embedding_bag/{avx2,avx512,neon}.cc, the packing in
// native/tables/quantize.cc, and a line in src/model/formats.ts; none of them compiles without it.
//
// A row holds its values one after another, value d from bit d * value_bits on, the first in the lowest bits of a byte, and then, of a
// quantized format, its scale and bias, without padding; value d is scale * q[d] + bias with q unsigned. These are the fused row-wise
// formats of FBGEMM and PyTorch (Guan et al., Post-training 4-bit quantization on embedding tables, 2019):
//   int8       dim bytes, scale and bias as float32        torch.ops.quantized.embedding_bag_byte_prepack
//   int8_fp16  dim bytes, scale and bias as float16        fbgemm, FusedNBitRowwiseQuantizedSBHalf with 8 bits
//   int4       (dim + 1) / 2 bytes, value 2i in the low half of byte i, scale and bias as float16
//                                                          torch.ops.quantized.embedding_bag_4bit_prepack
//
// All is static, so that each instruction set keeps its own copy.
namespace terabag {

// X(format, name in model.json, bits of a value, scale and bias behind the values)
#define TERABAG_ROW_FORMATS(X)          \
  X(kFp32, "fp32", 32, kNone)           \
  X(kFp16, "fp16", 16, kNone)           \
  X(kBf16, "bf16", 16, kNone)           \
  X(kInt8, "int8", 8, kFloats)          \
  X(kInt8Fp16, "int8_fp16", 8, kHalves) \
  X(kInt4, "int4", 4, kHalves)

enum class RowFormat : uint32_t {
#define TERABAG_ENUMERATOR(format, name, value_bits, scale_and_bias) format,
  TERABAG_ROW_FORMATS(TERABAG_ENUMERATOR)
#undef TERABAG_ENUMERATOR
};

// How a row's scale and bias are stored: not at all, as float32 or as float16. The value is their number of bytes.
enum class ScaleAndBias : uint32_t { kNone = 0, kHalves = 4, kFloats = 8 };

struct RowFormatInfo {
  const char* name;
  uint32_t value_bits;
  ScaleAndBias scale_and_bias;
};

static constexpr RowFormatInfo kRowFormats[] = {
#define TERABAG_INFO(format, name, value_bits, scale_and_bias) {name, value_bits, ScaleAndBias::scale_and_bias},
    TERABAG_ROW_FORMATS(TERABAG_INFO)
#undef TERABAG_INFO
};
static constexpr uint32_t kNumRowFormats = sizeof kRowFormats / sizeof kRowFormats[0];

static constexpr const RowFormatInfo& info_of(RowFormat format) { return kRowFormats[static_cast<uint32_t>(format)]; }
static constexpr bool is_quantized(RowFormat format) { return info_of(format).scale_and_bias != ScaleAndBias::kNone; }
// Whether the values are one unsigned byte each.
static constexpr bool holds_bytes(RowFormat format) { return is_quantized(format) && info_of(format).value_bits == 8; }
static constexpr uint32_t values_per_byte(RowFormat format) { return info_of(format).value_bits < 8 ? 8 / info_of(format).value_bits : 1; }
// Bytes of the values alone.
static constexpr uint64_t value_bytes(RowFormat format, uint64_t dim) { return (dim * info_of(format).value_bits + 7) / 8; }
static constexpr uint64_t bytes_per_row(RowFormat format, uint64_t dim) {
  return value_bytes(format, dim) + static_cast<uint32_t>(info_of(format).scale_and_bias);
}

template <typename T>
static inline T load(const unsigned char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
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

struct RowScale {
  float scale;
  float bias;
};

// Scale and bias of a quantized row.
static inline RowScale row_scale(const unsigned char* row, RowFormat format, uint32_t dim) {
  const unsigned char* at = row + value_bytes(format, dim);
  if (info_of(format).scale_and_bias == ScaleAndBias::kFloats) return {load<float>(at), load<float>(at + 4)};
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
