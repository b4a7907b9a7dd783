#include "engine/narrow_operands.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace terabag {
namespace {

uint32_t bf16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded;
}

constexpr float kMaxWeight = 127.0f;
constexpr float kMaxInput = 255.0f;

}  // namespace

NarrowWeights narrow_weights(Precision precision, const float* weight, uint32_t outputs, uint32_t inputs, uint32_t panel_width) {
  const uint64_t panels = (static_cast<uint64_t>(outputs) + panel_width - 1) / panel_width, units = units_of(precision, inputs);
  NarrowWeights narrow;
  narrow.packed.assign(panels * units * panel_width, 0);
  if (precision == Precision::kInt8) {
    narrow.scales.assign(panels * panel_width, 0.0f);
    narrow.sums.assign(panels * panel_width, 0);
  }
  for (uint64_t n = 0; n < outputs; ++n) {
    const float* row = weight + n * inputs;
    uint32_t* column = narrow.packed.data() + n / panel_width * units * panel_width + n % panel_width;
    if (precision == Precision::kBf16) {
      for (uint64_t k = 0; k < inputs; ++k) column[k / 2 * panel_width] |= bf16_bits(row[k]) << k % 2 * 16;
      continue;
    }
    float most = 0;
    bool finite = true;
    for (uint64_t k = 0; k < inputs; ++k) {
      most = std::max(most, std::abs(row[k]));
      finite = finite && std::isfinite(row[k]);
    }
    const float scale = most > 0 ? most / kMaxWeight : 1.0f;
    narrow.scales[n] = finite ? scale : std::numeric_limits<float>::quiet_NaN();
    for (uint64_t k = 0; finite && k < inputs; ++k) {
      const auto q = static_cast<int32_t>(std::clamp(std::nearbyint(row[k] / scale), -kMaxWeight, kMaxWeight));
      column[k / 4 * panel_width] |= static_cast<uint32_t>(static_cast<uint8_t>(q)) << k % 4 * 8;
      narrow.sums[n] += q;
    }
  }
  return narrow;
}

void round_to_bf16(const float* x, uint32_t dim, uint32_t* units) {
  for (uint32_t k = 0; k + 1 < dim; k += 2) units[k / 2] = bf16_bits(x[k]) | bf16_bits(x[k + 1]) << 16;
  if (dim % 2 != 0) units[dim / 2] = bf16_bits(x[dim - 1]);
}

RowQuantization quantize_row(const float* x, uint32_t dim, uint32_t* units) {
  float least = 0, most = 0;
  bool finite = true;
  for (uint32_t k = 0; k < dim; ++k) {
    least = std::min(least, x[k]);
    most = std::max(most, x[k]);
    finite = finite && std::isfinite(x[k]);
  }
  const float range = most - least;
  std::fill_n(units, units_of(Precision::kInt8, dim), 0u);
  if (!finite || !std::isfinite(range)) return {std::numeric_limits<float>::quiet_NaN(), 0};
  if (range == 0) return {1.0f, 0};
  const float scale = range / kMaxInput, inverse = kMaxInput / range;
  if (!std::isfinite(inverse)) return {1.0f, 0};  // Values below 2^-120 count as 0.
  const float zero_point = std::nearbyint(-least * inverse);
  unsigned char* bytes = reinterpret_cast<unsigned char*>(units);
  for (uint32_t k = 0; k < dim; ++k) {
    bytes[k] = static_cast<unsigned char>(std::clamp(std::nearbyint(x[k] * inverse) + zero_point, 0.0f, kMaxInput));
  }
  return {scale, static_cast<int32_t>(zero_point)};
}

}  // namespace terabag
