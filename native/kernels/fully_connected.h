#pragma once
#include <cstdint>

// A fully connected layer with an optional ReLU.
//
//   y[row][n] = bias[row][n] + sum over k in 0..num_inputs of x[row][k] * weight[n][k]      for row in 0..num_rows, n in 0..num_outputs
//   relu: y[row][n] = y[row][n] < 0 ? 0 : y[row][n]                                    NaN stays NaN
//
// Accumulator: float32, one chain for every (row, n), starting at the bias, k ascending; fused multiply-add where the instruction set has
// it. So the bits of a row do not depend on the batch that it is in. Latency is hidden by more outputs at a time, never by splitting k.
// Weights are packed in panels, so that a step of k reads one contiguous piece: packed[n / width][k][n % width], width being the
// panel_width of the kernel table, zero-padded to whole panels; bias likewise. A bias_stride of 0 is one bias for all rows; another one is
// for rows whose sums of the first inputs differ.
// Strides that are a multiple of 4096 bytes put all rows of a tile into the same few lines of the L1 cache, and cost a quarter of the
// speed. Ownership: all memory is the caller's; y overlaps nothing, and what lies between its rows is left alone. Cannot fail, so there is
// no status.
namespace terabag {

struct FullyConnectedJob {
  const float* x;  // [num_rows, num_inputs]; row r starts at x + r * x_stride
  uint64_t x_stride;
  uint32_t num_rows;
  uint32_t num_inputs;
  uint32_t
      panel_inputs;     // inputs that a panel has: num_inputs, or more when x and packed start at a later input, the sum so far being bias
  const float* packed;  // [panels, panel_inputs, panel_width]; fastest when aligned to 64 bytes
  const float* bias;    // [num_rows or 1][panels, panel_width]; that of row r starts at bias + r * bias_stride
  uint32_t num_outputs;
  bool relu;
  float* y;  // [num_rows, num_outputs]; row r starts at y + r * y_stride
  uint64_t y_stride;
  uint64_t bias_stride = 0;
};

using FullyConnected = void(const FullyConnectedJob& job);

// Each width is what one register tile of the kernel spans.
namespace scalar {
constexpr uint32_t kPanelWidth = 16;
FullyConnected fully_connected;
}  // namespace scalar
namespace avx2 {
constexpr uint32_t kPanelWidth = 16;
FullyConnected fully_connected;
}  // namespace avx2
namespace avx512 {
constexpr uint32_t kPanelWidth = 32;
FullyConnected fully_connected;
}  // namespace avx512
namespace neon {
constexpr uint32_t kPanelWidth = 16;
FullyConnected fully_connected;
}  // namespace neon

}  // namespace terabag
