#include "tables/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/row_format.h"

namespace terabag {
namespace {

template <typename T>
void store(unsigned char* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Rounds to nearest even; what is too large becomes infinity.
uint16_t half_bits(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more, and infinity
  if (magnitude < 0x38800000u) {
    // Below the least normal half: adding 2^-1 leaves multiples of 2^-24 in the mantissa, rounded by the processor.
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    return static_cast<uint16_t>(sign | (bits_of(shifted + 0.5f) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

uint16_t bf16_bits(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

struct Range {
  float least, most;
};

// Least and most value of a row without NaN.
Range range_of(const float* values, uint32_t dim) {
  Range range{values[0], values[0]};
  for (uint32_t d = 1; d < dim; ++d) {
    range.least = std::min(range.least, values[d]);
    range.most = std::max(range.most, values[d]);
  }
  return range;
}

bool all_finite(const float* values, uint32_t dim) {
  // The exponent of NaN and infinity is all ones.
  bool finite = true;
  for (uint32_t d = 0; d < dim; ++d) finite = finite && (bits_of(values[d]) & 0x7f800000u) != 0x7f800000u;
  return finite;
}

PackStatus quantize_int8(const float* values, uint32_t dim, unsigned char* out) {
  const auto [least, most] = range_of(values, dim);
  const float range = most - least;
  if (!std::isfinite(range)) return PackStatus::kOverflow;
  const float inverse = 255.0f / (range + 1e-8f);
  for (uint32_t d = 0; d < dim; ++d) out[d] = static_cast<uint8_t>(std::nearbyint((values[d] - least) * inverse));
  store(out + dim, range / 255.0f);
  store(out + dim + 4, least);
  return PackStatus::kOk;
}

// q of a row whose scale and bias are float16, and the two behind it.
template <uint32_t kBits>
PackStatus quantize_halves(const float* values, uint32_t dim, unsigned char* out) {
  constexpr float kMost = (1u << kBits) - 1;
  const Range range = range_of(values, dim);
  const uint16_t bias_bits = half_bits(range.least);
  const float bias = half_to_float(bias_bits);
  const float span = range.most - bias;
  float scale = half_to_float(half_bits(span == 0.0f ? 1.0f : span / kMost));
  if (scale == 0.0f) scale = 1.0f;
  if (!std::isfinite(bias) || !std::isfinite(scale)) return PackStatus::kOverflow;
  float inverse = 1.0f / scale;
  if (std::isinf(inverse)) inverse = scale = 1.0f;
  const uint32_t bytes = (dim * kBits + 7) / 8;
  std::memset(out, 0, bytes);
  for (uint32_t d = 0; d < dim; ++d) {
    const float q = std::clamp(std::nearbyint((values[d] - bias) * inverse), 0.0f, kMost);
    const uint32_t bit = d * kBits;
    out[bit / 8] = static_cast<unsigned char>(out[bit / 8] | static_cast<uint32_t>(q) << bit % 8);
  }
  store(out + bytes, half_bits(scale));
  store(out + bytes + 2, bias_bits);
  return PackStatus::kOk;
}

template <uint16_t (*kBitsOf)(float)>
void round_row(const float* values, uint32_t dim, unsigned char* out) {
  for (uint32_t d = 0; d < dim; ++d) store(out + static_cast<uint64_t>(d) * 2, kBitsOf(values[d]));
}

PackStatus pack_row(const float* values, uint32_t dim, RowFormat to, unsigned char* out) {
  if (is_quantized(to) && !all_finite(values, dim)) return PackStatus::kNotFinite;
  switch (to) {
    case RowFormat::kFp32: std::memcpy(out, values, static_cast<uint64_t>(dim) * 4); break;
    case RowFormat::kFp16: round_row<half_bits>(values, dim, out); break;
    case RowFormat::kBf16: round_row<bf16_bits>(values, dim, out); break;
    case RowFormat::kInt8: return quantize_int8(values, dim, out);
    case RowFormat::kInt8Fp16: return quantize_halves<8>(values, dim, out);
    case RowFormat::kInt4: return quantize_halves<4>(values, dim, out);
  }
  return PackStatus::kOk;
}

// False when a finite value became infinite.
bool add_error(const float* values, uint32_t dim, const unsigned char* packed, RowFormat format, PackError* error) {
  const RowScale scale = is_quantized(format) ? row_scale(packed, format, dim) : RowScale{1.0f, 0.0f};
  for (uint32_t d = 0; d < dim; ++d) {
    if (!std::isfinite(values[d])) continue;
    const double stored = static_cast<double>(scale.scale) * row_value(packed, format, d) + scale.bias;
    if (!std::isfinite(stored)) return false;
    const double difference = stored - values[d];
    error->max_error = std::max(error->max_error, std::abs(difference));
    error->sum_squared_error += difference * difference;
    error->sum_squares += static_cast<double>(values[d]) * values[d];
  }
  return true;
}

}  // namespace

PackStatus pack_rows(const unsigned char* rows, RowFormat from, uint64_t num_rows, uint32_t dim, RowFormat to, unsigned char* out,
                     PackError* error, uint64_t* bad_row) {
  std::vector<float> values(dim);
  *error = {};
  for (uint64_t row = 0; row < num_rows; ++row) {
    const unsigned char* source = rows + row * bytes_per_row(from, dim);
    unsigned char* const destination = out + row * bytes_per_row(to, dim);
    for (uint32_t d = 0; d < dim; ++d) values[d] = row_value(source, from, d);
    PackStatus status = pack_row(values.data(), dim, to, destination);
    if (status == PackStatus::kOk && !add_error(values.data(), dim, destination, to, error)) status = PackStatus::kOverflow;
    if (status == PackStatus::kOk) continue;
    *bad_row = row;
    return status;
  }
  return PackStatus::kOk;
}

}  // namespace terabag
