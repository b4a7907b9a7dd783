#include "kernels/fully_connected.h"

#include <immintrin.h>

namespace terabag {
namespace {

constexpr uint32_t kLanes = 16;
constexpr uint32_t kPanelVectors = avx512::kPanelWidth / kLanes;
// 12 rows x 2 vectors of sums, 2 vectors of weights and 1 value of x make 27 of the 32 registers. 14 rows would fit, and 13 are slower than
// any other number (Zen 4, 512 x 512: 111 GFLOP/s of 116, with 8 to 12 or 14 rows 115), and batches of 64 or 100 are tiles of 13.
constexpr uint32_t kMaxRows = 12;

// kRows rows times kVectors vectors of outputs from `column` on, the start of a panel. With few rows it spans panels: 2 FMA ports x 4
// cycles of latency want 8 sums in flight.
template <uint32_t kRows, uint32_t kVectors>
void tile(const FullyConnectedJob& job, uint64_t row, uint64_t column) {
  const uint64_t num_inputs = job.num_inputs, panel_inputs = job.panel_inputs;
  const float* x = job.x + row * job.x_stride;
  const float* panel = job.packed + column * panel_inputs;
  const float* bias = job.bias + row * job.bias_stride + column;
  __m512 sum_f32x16[kRows][kVectors];
#pragma GCC unroll 12
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) sum_f32x16[r][v] = _mm512_loadu_ps(bias + r * job.bias_stride + v * kLanes);
  }
  for (uint64_t k = 0; k < num_inputs; ++k) {
    __m512 weight_f32x16[kVectors];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      const float* from = panel + v / kPanelVectors * avx512::kPanelWidth * panel_inputs + k * avx512::kPanelWidth;
      weight_f32x16[v] = _mm512_loadu_ps(from + v % kPanelVectors * kLanes);
    }
#pragma GCC unroll 12
    for (uint32_t r = 0; r < kRows; ++r) {
      const __m512 x_f32x16 = _mm512_set1_ps(x[r * job.x_stride + k]);
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kVectors; ++v) sum_f32x16[r][v] = _mm512_fmadd_ps(x_f32x16, weight_f32x16[v], sum_f32x16[r][v]);
    }
  }
  float* y = job.y + row * job.y_stride + column;
  const uint64_t width = job.num_outputs - column;
#pragma GCC unroll 12
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      __m512 y_f32x16 = sum_f32x16[r][v];
      if (job.relu) y_f32x16 = _mm512_max_ps(_mm512_setzero_ps(), y_f32x16);  // The second operand is the result when it is NaN.
      if (width >= (v + 1) * kLanes) {
        _mm512_storeu_ps(y + r * job.y_stride + v * kLanes, y_f32x16);
      } else if (width > v * kLanes) {
        const __mmask16 mask = static_cast<__mmask16>((1u << (width - v * kLanes)) - 1);
        _mm512_mask_storeu_ps(y + r * job.y_stride + v * kLanes, mask, y_f32x16);
      }
    }
  }
}

using Tile = void(const FullyConnectedJob& job, uint64_t row, uint64_t column);
template <uint32_t kVectors>
constexpr Tile* kTiles[kMaxRows + 1] = {
    nullptr,           tile<1, kVectors>, tile<2, kVectors>, tile<3, kVectors>,  tile<4, kVectors>,  tile<5, kVectors>, tile<6, kVectors>,
    tile<7, kVectors>, tile<8, kVectors>, tile<9, kVectors>, tile<10, kVectors>, tile<11, kVectors>, tile<12, kVectors>};

}  // namespace

namespace avx512 {

void fully_connected(const FullyConnectedJob& job) {
  // Tiles of equal height: 32 rows are 11 + 11 + 10, since a tile of 4 costs nearly as much as one of 8.
  const uint32_t num_tiles = (job.num_rows + kMaxRows - 1) / kMaxRows;
  for (uint64_t column = 0; column < job.num_outputs;) {
    const uint64_t width = job.num_outputs - column;
    // Panels outside, rows inside: a panel is read from memory once and then from cache.
    if (job.num_rows == 1 && width > 3 * kPanelWidth) {
      tile<1, 4 * kPanelVectors>(job, 0, column);
      column += 4 * kPanelWidth;
    } else if (job.num_rows <= 3 && width > kPanelWidth) {
      (job.num_rows == 1   ? tile<1, 2 * kPanelVectors>
       : job.num_rows == 2 ? tile<2, 2 * kPanelVectors>
                           : tile<3, 2 * kPanelVectors>)(job, 0, column);
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

}  // namespace avx512
}  // namespace terabag
