#include "kernels/fully_connected.h"

#include <immintrin.h>

namespace terabag {
namespace {

constexpr uint32_t kLanes = 8;
constexpr uint32_t kPanelVectors = avx2::kPanelWidth / kLanes;
// 6 rows x 2 vectors of sums, 2 vectors of weights and 1 value of x make 15 of the 16 registers.
constexpr uint32_t kMaxRows = 6;

// Selects the first `count` of 8 lanes.
inline __m256i lanes_below(uint64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// kRows rows times kVectors vectors of outputs from `column` on, the start of a panel. With few rows it spans panels: 2 FMA ports x 4
// cycles of latency want 8 sums in flight.
template <uint32_t kRows, uint32_t kVectors>
void tile(const FullyConnectedJob& job, uint64_t row, uint64_t column) {
  const uint64_t num_inputs = job.num_inputs, panel_inputs = job.panel_inputs;
  const float* x = job.x + row * job.x_stride;
  const float* panel = job.packed + column * panel_inputs;
  const float* bias = job.bias + row * job.bias_stride + column;
  __m256 sum_f32x8[kRows][kVectors];
#pragma GCC unroll 6
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) sum_f32x8[r][v] = _mm256_loadu_ps(bias + r * job.bias_stride + v * kLanes);
  }
  for (uint64_t k = 0; k < num_inputs; ++k) {
    __m256 weight_f32x8[kVectors];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      const float* from = panel + v / kPanelVectors * avx2::kPanelWidth * panel_inputs + k * avx2::kPanelWidth;
      weight_f32x8[v] = _mm256_loadu_ps(from + v % kPanelVectors * kLanes);
    }
#pragma GCC unroll 6
    for (uint32_t r = 0; r < kRows; ++r) {
      const __m256 x_f32x8 = _mm256_set1_ps(x[r * job.x_stride + k]);
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kVectors; ++v) sum_f32x8[r][v] = _mm256_fmadd_ps(x_f32x8, weight_f32x8[v], sum_f32x8[r][v]);
    }
  }
  float* y = job.y + row * job.y_stride + column;
  const uint64_t width = job.num_outputs - column;
#pragma GCC unroll 6
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      __m256 y_f32x8 = sum_f32x8[r][v];
      if (job.relu) y_f32x8 = _mm256_max_ps(_mm256_setzero_ps(), y_f32x8);  // The second operand is the result when it is NaN.
      if (width >= (v + 1) * kLanes) {
        _mm256_storeu_ps(y + r * job.y_stride + v * kLanes, y_f32x8);
      } else if (width > v * kLanes) {
        _mm256_maskstore_ps(y + r * job.y_stride + v * kLanes, lanes_below(width - v * kLanes), y_f32x8);
      }
    }
  }
}

using Tile = void(const FullyConnectedJob& job, uint64_t row, uint64_t column);
template <uint32_t kVectors>
constexpr Tile* kTiles[kMaxRows + 1] = {nullptr,           tile<1, kVectors>, tile<2, kVectors>, tile<3, kVectors>,
                                        tile<4, kVectors>, tile<5, kVectors>, tile<6, kVectors>};

}  // namespace

namespace avx2 {

void fully_connected(const FullyConnectedJob& job) {
  // Tiles of equal height: 8 rows are 4 + 4, since a tile of 2 costs nearly as much as one of 4.
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

}  // namespace avx2
}  // namespace terabag
