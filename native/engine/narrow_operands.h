#pragma once
#include <cstdint>
#include <vector>

#include "engine/aligned_floats.h"

namespace terabag {

enum class Precision { kFp32, kBf16, kInt8 };

// Units of 32 bits that a row of dim values takes; see native/kernels/fully_connected_narrow.h.
constexpr uint32_t units_of(Precision precision, uint32_t dim) { return precision == Precision::kBf16 ? (dim + 1) / 2 : (dim + 3) / 4; }

using AlignedUnits = std::vector<uint32_t, CacheLineAllocator<uint32_t>>;

// Weights of a layer, zero-padded to whole panels.
struct NarrowWeights {
  AlignedUnits packed;        // [panels, units, panel_width]
  std::vector<float> scales;  // [panels * panel_width], int8 only; weight = scale * q with q in [-127, 127]
  std::vector<int32_t> sums;  // [panels * panel_width], int8 only: of q
};

// weight: [outputs, inputs] row-major. bf16 rounds to nearest even; int8 is symmetric with a scale per output.
NarrowWeights narrow_weights(Precision precision, const float* weight, uint32_t outputs, uint32_t inputs, uint32_t panel_width);

// A row of inputs in 8 bits: x = scale * (q - zero_point). Both are worked out from the row alone.
struct RowQuantization {
  float scale;
  int32_t zero_point;
};

void round_to_bf16(const float* x, uint32_t dim, uint32_t* units);
// A row with NaN or infinity gets the scale NaN, so that all its outputs are NaN.
RowQuantization quantize_row(const float* x, uint32_t dim, uint32_t* units);

}  // namespace terabag
