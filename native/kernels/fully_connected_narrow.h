#pragma once
#include <cstdint>

// Fully connected layers with narrow operands: those of native/kernels/fully_connected.h with weights and inputs in bfloat16 or 8 bits.
// Operands come in units of 32 bits along k: two bfloat16, or four bytes, the first k in the lowest bits; zeros fill the last unit.
//
//   bf16:  y[row][n] = bias[n] + sum over k of x[row][k] * weight[n][k], in float32, units in ascending order; within a unit in any order,
//          with one rounding or two, and numbers below 2^-126 may count as 0.
//   int8:  acc = sum over k of x[row][k] * weight[n][k], with x unsigned and weight signed, exactly, in int32;
//          y[row][n] = bias[n] + float32(acc - zero_point[row] * weight_sum[n]) * (scale[row] * weight_scale[n])
//   relu:  y[row][n] = y[row][n] < 0 ? 0 : y[row][n]                                    NaN stays NaN
//
// So the bits of a row do not depend on the batch that it is in.
// Weights are packed in panels as there: packed[n / width][unit][n % width], zero-padded to whole panels; bias and the rest likewise.
// Ownership: all memory is the caller's; y overlaps nothing. Cannot fail, so there is no status.
namespace terabag {

// Most inputs of an int8 layer: 65536 products of 255 and 127 stay in int32.
constexpr uint32_t kMaxInt8Inputs = 65536;

struct NarrowJob {
  const uint32_t* x;  // [num_rows, num_units]; row r starts at x + r * x_stride
  uint64_t x_stride;
  uint32_t num_rows;
  uint32_t num_units;
  const uint32_t* packed;  // [panels, num_units, panel_width]; fastest when aligned to 64 bytes
  const float* bias;       // [panels, panel_width]
  uint32_t num_outputs;
  bool relu;
  float* y;  // [num_rows, num_outputs]; row r starts at y + r * y_stride
  uint64_t y_stride;
  // int8 only
  const float* scales;         // [num_rows]
  const int32_t* zero_points;  // [num_rows]
  const float* weight_scales;  // [panels, panel_width]
  const int32_t* weight_sums;  // [panels, panel_width]
};

using FullyConnectedNarrow = void(const NarrowJob& job);

namespace scalar {
FullyConnectedNarrow fully_connected_bf16;
FullyConnectedNarrow fully_connected_int8;
}  // namespace scalar
namespace avx512 {
FullyConnectedNarrow fully_connected_bf16;  // needs avx512_bf16
FullyConnectedNarrow fully_connected_int8;  // needs avx512_vnni
}  // namespace avx512

}  // namespace terabag
