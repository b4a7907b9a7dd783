#include "kernels/dot_interaction.h"

#include <immintrin.h>

namespace terabag {
namespace {

constexpr uint32_t kLanes = 16;
// 4 x 4 pairs a block: 16 chains hide the FMA latency, and every vector that is loaded serves 4 pairs.
constexpr uint32_t kBlock = 4;

// The sums over the lanes of 4 x 4 registers: [4 r + c] is that of register (r, c). A fixed tree over the lanes of each: lanes 2 apart,
// then neighbours, then 128-bit parts 2 apart, then neighbours. Two registers are folded into one with one shuffle and a blend: shuffles
// share a port with the multiplications. Of a sum of two terms the order does not matter, so that all registers go the same way.
inline __m512 lane_sums_f32x16(const __m512 (&sum_f32x16)[kBlock][kBlock]) {
  const auto fold_halves_of_parts = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, _MM_SHUFFLE(1, 0, 3, 2)));
  };
  __m512 row_f32x16[kBlock];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kBlock; ++r) {
    const __m512 low_f32x16 = fold_halves_of_parts(sum_f32x16[r][0], sum_f32x16[r][1]),
                 high_f32x16 = fold_halves_of_parts(sum_f32x16[r][2], sum_f32x16[r][3]);
    row_f32x16[r] = _mm512_add_ps(_mm512_shuffle_ps(low_f32x16, high_f32x16, _MM_SHUFFLE(2, 0, 2, 0)),
                                  _mm512_shuffle_ps(low_f32x16, high_f32x16, _MM_SHUFFLE(3, 1, 3, 1)));
  }
  const auto fold_parts = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, _MM_SHUFFLE(1, 0, 3, 2)));
  };
  const __m512 low_f32x16 = fold_parts(row_f32x16[0], row_f32x16[1]), high_f32x16 = fold_parts(row_f32x16[2], row_f32x16[3]);
  return _mm512_add_ps(_mm512_shuffle_f32x4(low_f32x16, high_f32x16, _MM_SHUFFLE(2, 0, 2, 0)),
                       _mm512_shuffle_f32x4(low_f32x16, high_f32x16, _MM_SHUFFLE(3, 1, 3, 1)));
}

// Which pairs a block has: all of its rows and columns, or on the diagonal the ones below it, with or without a vector's own.
enum class Pairs { kAll, kBelow, kBelowAndSelf };

// The vectors of the item that comes next, which are copied while the present item's are multiplied: reading and storing them takes ports
// that multiplications do not.
struct Next {
  const DotInteractionJob& job;
  uint64_t item;
  float* stacked;
  uint32_t vector = 0;

  bool done() const { return vector == job.num_vectors; }
};

struct Copy {
  const float* from;
  float* to;
  uint32_t dim;

  // The tail of a vector reads no byte past it.
  void step(uint32_t d) const {
    const __mmask16 mask = dim - d >= kLanes ? 0xffff : static_cast<__mmask16>((1u << (dim - d)) - 1);
    _mm512_store_ps(to + d, _mm512_maskz_loadu_ps(mask, from + d));
  }
};

// When all are copied, the last one once more, so that every block goes the same way.
inline Copy take(Next& next) {
  const uint32_t v = next.done() ? next.vector - 1 : next.vector++;
  return {vector_of(next.job, next.item, v), next.stacked + v * stacked_stride(next.job.dim), next.job.dim};
}

void copy_rest(Next& next) {
  while (!next.done()) {
    const Copy copy = take(next);
    for (uint32_t d = 0; d < copy.dim; d += kLanes) copy.step(d);
  }
}

struct Item {
  const DotInteractionJob& job;
  uint64_t item;
  const float* stacked;
};

// Dot products of vectors i..i + kRows with vectors j..j + 4; on the diagonal, where j is i, only those of the pairs that there are. Every
// pair goes the same way whatever block it is in.
template <uint32_t kRows, Pairs pairs>
void block(const Item& item, uint32_t i, uint32_t j, Next& next) {
  constexpr bool kOnDiagonal = pairs != Pairs::kAll;
  constexpr uint32_t kSelf = pairs == Pairs::kBelowAndSelf ? 1 : 0;
  constexpr uint32_t kColumns = kOnDiagonal ? kRows : kBlock;
  const auto has = [](uint32_t r, uint32_t c) { return !kOnDiagonal || c < r + kSelf; };
  const uint64_t stride = stacked_stride(item.job.dim);
  const float *a = item.stacked + i * stride, *b = item.stacked + j * stride;
  __m512 sum_f32x16[kBlock][kBlock];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kBlock; ++r) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kBlock; ++c) sum_f32x16[r][c] = _mm512_setzero_ps();
  }
  const Copy copy = take(next);
  for (uint32_t d = 0; d < copy.dim; d += kLanes) {
    copy.step(d);
    __m512 b_f32x16[kColumns];
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kColumns; ++c) b_f32x16[c] = _mm512_load_ps(b + c * stride + d);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) {
      if (!has(r, 0)) continue;
      const __m512 a_f32x16 = kOnDiagonal ? b_f32x16[r] : _mm512_load_ps(a + r * stride + d);
#pragma GCC unroll 4
      for (uint32_t c = 0; c < kColumns; ++c) {
        if (has(r, c)) sum_f32x16[r][c] = _mm512_fmadd_ps(a_f32x16, b_f32x16[c], sum_f32x16[r][c]);
      }
    }
  }
  const __m512 dots_f32x16 = lane_sums_f32x16(sum_f32x16);
  const __m128 dots_f32x4[kBlock] = {_mm512_castps512_ps128(dots_f32x16), _mm512_extractf32x4_ps(dots_f32x16, 1),
                                     _mm512_extractf32x4_ps(dots_f32x16, 2), _mm512_extractf32x4_ps(dots_f32x16, 3)};
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; ++r) {
    if (!has(r, 0)) continue;
    float* to = pairs_of(item.job, item.item, i + r) + j;
    const uint32_t count = kOnDiagonal ? r + kSelf : kBlock;
    if (count >= kBlock) {
      _mm_storeu_ps(to, dots_f32x4[r]);
    } else {
      _mm_mask_storeu_ps(to, static_cast<__mmask8>((1u << count) - 1), dots_f32x4[r]);
    }
  }
}

// Vectors i..i + kRows with all before them, and among themselves.
template <uint32_t kRows>
void rows(const Item& item, uint32_t i, Next& next) {
  for (uint32_t j = 0; j < i; j += kBlock) block<kRows, Pairs::kAll>(item, i, j, next);
  item.job.diagonal ? block<kRows, Pairs::kBelowAndSelf>(item, i, i, next) : block<kRows, Pairs::kBelow>(item, i, i, next);
}

void all_rows(const Item& item, Next& next) {
  const uint32_t num_vectors = item.job.num_vectors;
  uint32_t i = 0;
  for (; i + kBlock <= num_vectors; i += kBlock) rows<kBlock>(item, i, next);
  switch (num_vectors - i) {
    case 1: return rows<1>(item, i, next);
    case 2: return rows<2>(item, i, next);
    case 3: return rows<3>(item, i, next);
    default: return;
  }
}

}  // namespace

namespace avx512 {

void dot_interaction(const DotInteractionJob& job) {
  if (job.num_items == 0) return;
  float *present = job.scratch, *other = job.scratch + job.num_vectors * stacked_stride(job.dim);
  Next first{job, 0, present};
  copy_rest(first);
  for (uint64_t item = 0; item < job.num_items; ++item) {
    float* out = job.out + item * job.out_stride;
    for (uint32_t d = 0; d < job.dim; d += kLanes) {
      const __mmask16 mask = job.dim - d >= kLanes ? 0xffff : static_cast<__mmask16>((1u << (job.dim - d)) - 1);
      _mm512_mask_storeu_ps(out + d, mask, _mm512_load_ps(present + d));
    }
    // The last item is copied again, so that it goes the same way.
    Next next{job, item + 1 < job.num_items ? item + 1 : item, other};
    all_rows({job, item, present}, next);
    copy_rest(next);
    float* swap = present;
    present = other;
    other = swap;
  }
}

}  // namespace avx512
}  // namespace terabag
