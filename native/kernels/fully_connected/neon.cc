#include "kernels/fully_connected.h"

#include <arm_neon.h>

namespace terabag {
namespace {

constexpr uint32_t kLanes = 4;
constexpr uint32_t kPanelVectors = neon::kPanelWidth / kLanes;
// 6 rows x 4 vectors of sums, 4 vectors of weights and 1 value of x make 29 of the 32 registers.
constexpr uint32_t kMaxRows = 6;

// kRows rows times kVectors vectors of outputs from `column` on, the start of a panel. With few rows it spans panels: 2 FMA ports x 4
// cycles of latency want 8 sums in flight.
template <uint32_t kRows, uint32_t kVectors>
void tile(const FullyConnectedJob& job, uint64_t row, uint64_t column) {
  const uint64_t num_inputs = job.num_inputs, panel_inputs = job.panel_inputs;
  const float* x = job.x + row * job.x_stride;
  const float* panel = job.packed + column * panel_inputs;
  const float* bias = job.bias + row * job.bias_stride + column;
  float32x4_t sum_f32x4[kRows][kVectors];
#pragma GCC unroll 6
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) sum_f32x4[r][v] = vld1q_f32(bias + r * job.bias_stride + v * kLanes);
  }
  for (uint64_t k = 0; k < num_inputs; ++k) {
    float32x4_t weight_f32x4[kVectors];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      const float* from = panel + v / kPanelVectors * neon::kPanelWidth * panel_inputs + k * neon::kPanelWidth;
      weight_f32x4[v] = vld1q_f32(from + v % kPanelVectors * kLanes);
    }
#pragma GCC unroll 6
    for (uint32_t r = 0; r < kRows; ++r) {
      const float32x4_t x_f32x4 = vdupq_n_f32(x[r * job.x_stride + k]);
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kVectors; ++v) sum_f32x4[r][v] = vfmaq_f32(sum_f32x4[r][v], x_f32x4, weight_f32x4[v]);
    }
  }
  float* y = job.y + row * job.y_stride + column;
  const uint64_t width = job.num_outputs - column;
#pragma GCC unroll 6
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      float32x4_t y_f32x4 = sum_f32x4[r][v];
      if (job.relu) y_f32x4 = vbslq_f32(vcltzq_f32(y_f32x4), vdupq_n_f32(0.0f), y_f32x4);
      if (width >= (v + 1) * kLanes) {
        vst1q_f32(y + r * job.y_stride + v * kLanes, y_f32x4);
      } else if (width > v * kLanes) {
        float* to = y + r * job.y_stride + v * kLanes;
        const uint64_t count = width - v * kLanes;
        if (count & 2) {
          vst1_f32(to, vget_low_f32(y_f32x4));
          to += 2;
          y_f32x4 = vcombine_f32(vget_high_f32(y_f32x4), vget_high_f32(y_f32x4));
        }
        if (count & 1) vst1q_lane_f32(to, y_f32x4, 0);
      }
    }
  }
}

using Tile = void(const FullyConnectedJob& job, uint64_t row, uint64_t column);
template <uint32_t kVectors>
constexpr Tile* kTiles[kMaxRows + 1] = {nullptr,           tile<1, kVectors>, tile<2, kVectors>, tile<3, kVectors>,
                                        tile<4, kVectors>, tile<5, kVectors>, tile<6, kVectors>};

}  // namespace

namespace neon {

void fully_connected(const FullyConnectedJob& job) {
  // Tiles of equal height: 8 rows are 4 + 4, since a tile of 2 costs nearly as much as one of 4.
  const uint32_t num_tiles = (job.num_rows + kMaxRows - 1) / kMaxRows;
  for (uint64_t column = 0; column < job.num_outputs;) {
    const uint64_t width = job.num_outputs - column;
    // Panels outside, rows inside: a panel is read from memory once and then from cache.
    if (job.num_rows == 1 && width > kPanelWidth) {
      tile<1, 2 * kPanelVectors>(job, 0, column);
      column += 2 * kPanelWidth;
    } else {
      uint64_t row = 0;
      for (uint32_t t = 0; t < num_tiles; ++t) {
        const uint32_t rows = job.num_rows / num_tiles + (t < job.num_rows % num_tiles ? 1 : 0);
        (width <= kLanes ? kTiles<1> : kTiles<kPanelVectors>)[rows](job, row, column);
        row += rows;
      }
      column += kPanelWidth;
    }
  }
}

}  // namespace neon
}  // namespace terabag
