#pragma once
#include <immintrin.h>

#include "kernels/fully_connected.h"
#include "kernels/fully_connected_narrow.h"

// Register tiles over units of 32 bits, for both narrow formats. A Step brings its accumulators:
//   Sums, start(job, column), add(sums, x, weights), finish(job, row, column, sums)
namespace terabag {
namespace {

constexpr uint32_t kLanes = 16;
constexpr uint32_t kPanelVectors = avx512::kPanelWidth / kLanes;
constexpr uint32_t kMaxRows = 14;

// kRows rows times kVectors vectors of outputs from `column` on, the start of a panel; with few rows it spans panels, for more sums in
// flight.
template <typename Step, uint32_t kRows, uint32_t kVectors>
void tile(const NarrowJob& job, uint64_t row, uint64_t column) {
  const uint64_t num_units = job.num_units;
  const uint32_t* x = job.x + row * job.x_stride;
  const uint32_t* panel = job.packed + column * num_units;
  typename Step::Sums sums[kRows][kVectors];
#pragma GCC unroll 14
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) sums[r][v] = Step::start(job, column + v * kLanes);
  }
  for (uint64_t unit = 0; unit < num_units; ++unit) {
    __m512i weights[kVectors];
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      const uint32_t* from = panel + v / kPanelVectors * avx512::kPanelWidth * num_units + unit * avx512::kPanelWidth;
      weights[v] = _mm512_loadu_si512(from + v % kPanelVectors * kLanes);
    }
#pragma GCC unroll 14
    for (uint32_t r = 0; r < kRows; ++r) {
      const __m512i x_i32x16 = _mm512_set1_epi32(static_cast<int32_t>(x[r * job.x_stride + unit]));
#pragma GCC unroll 8
      for (uint32_t v = 0; v < kVectors; ++v) sums[r][v] = Step::add(sums[r][v], x_i32x16, weights[v]);
    }
  }
  float* y = job.y + row * job.y_stride + column;
  const uint64_t width = job.num_outputs - column;
#pragma GCC unroll 14
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      if (width <= v * kLanes) continue;
      __m512 y_f32x16 = Step::finish(job, row + r, column + v * kLanes, sums[r][v]);
      if (job.relu) y_f32x16 = _mm512_max_ps(_mm512_setzero_ps(), y_f32x16);  // The second operand is the result when it is NaN.
      const uint64_t count = width - v * kLanes;
      const __mmask16 mask = count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
      _mm512_mask_storeu_ps(y + r * job.y_stride + v * kLanes, mask, y_f32x16);
    }
  }
}

template <typename Step>
void fully_connected_tiles(const NarrowJob& job) {
  using Tile = void(const NarrowJob&, uint64_t, uint64_t);
  constexpr uint32_t kPair = kPanelVectors;
  static constexpr Tile* kTiles[kMaxRows + 1] = {nullptr,
                                                 tile<Step, 1, kPair>,
                                                 tile<Step, 2, kPair>,
                                                 tile<Step, 3, kPair>,
                                                 tile<Step, 4, kPair>,
                                                 tile<Step, 5, kPair>,
                                                 tile<Step, 6, kPair>,
                                                 tile<Step, 7, kPair>,
                                                 tile<Step, 8, kPair>,
                                                 tile<Step, 9, kPair>,
                                                 tile<Step, 10, kPair>,
                                                 tile<Step, 11, kPair>,
                                                 tile<Step, 12, kPair>,
                                                 tile<Step, 13, kPair>,
                                                 tile<Step, 14, kPair>};
  const uint32_t num_tiles = (job.num_rows + kMaxRows - 1) / kMaxRows;
  for (uint64_t column = 0; column < job.num_outputs;) {
    if (job.num_rows == 1 && job.num_outputs - column > 3 * avx512::kPanelWidth) {
      tile<Step, 1, 4 * kPair>(job, 0, column);
      column += 4 * avx512::kPanelWidth;
      continue;
    }
    // Tiles of equal height.
    uint64_t row = 0;
    for (uint32_t t = 0; t < num_tiles; ++t) {
      const uint32_t rows = job.num_rows / num_tiles + (t < job.num_rows % num_tiles ? 1 : 0);
      kTiles[rows](job, row, column);
      row += rows;
    }
    column += avx512::kPanelWidth;
  }
}

}  // namespace
}  // namespace terabag
