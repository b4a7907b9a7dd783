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

// An item's vectors are copied 4 at a time: 16 values of each in turn, with zeros behind the last. So a block reads from two places only,
// whatever dim is, and all of its addresses stay in registers.
struct Shape {
  uint32_t num_vectors;
  uint64_t dim;
  __mmask16 tail;  // lanes of the last values when dim is no multiple of kLanes
  uint64_t group;  // floats of 4 vectors
  bool diagonal;

  explicit Shape(const DotInteractionJob& job)
      : num_vectors(job.num_vectors),
        dim(job.dim),
        tail(static_cast<__mmask16>((1u << job.dim % kLanes) - 1)),
        group((dim + kLanes - 1) / kLanes * kLanes * kBlock),
        diagonal(job.diagonal) {}

  uint64_t item_floats() const { return (num_vectors + kBlock - 1) / kBlock * group; }
  uint64_t pairs_before(uint64_t i) const { return diagonal ? i * (i + 1) / 2 : i * (i - 1) / 2; }
};

// The vectors of the item that comes next. Each block copies one, between its multiplications and its sums: reading and storing them takes
// ports that those do not. Amid the multiplications, loads would wait for stores that only have the low 12 bits of their address in common.
struct Next {
  const Shape& shape;
  const float* const* vectors;
  const uint64_t* strides;
  uint64_t item;
  float* grouped;
  uint32_t copied = 0;

  bool done() const { return copied == shape.num_vectors; }

  // When all are copied, the last one once more, so that every block goes the same way. No byte behind a vector is read.
  inline void copy() {
    const uint32_t v = done() ? copied - 1 : copied++;
    const float* from = vectors[v] + item * strides[v];
    float* to = grouped + v / kBlock * shape.group + v % kBlock * kLanes;
    uint64_t d = 0;
    for (; d + kLanes <= shape.dim; d += kLanes) _mm512_store_ps(to + d * kBlock, _mm512_loadu_ps(from + d));
    if (d < shape.dim) _mm512_store_ps(to + d * kBlock, _mm512_maskz_loadu_ps(shape.tail, from + d));
  }
  void copy_rest() {
    while (!done()) copy();
  }
};

// Dot products of a group's first kRows vectors with the 4 of another; on the diagonal, where that is the same group, only those of the
// pairs that there are. Those of row r go to to[r]. Every pair goes the same way whatever block it is in.
template <uint32_t kRows, Pairs pairs>
inline __attribute__((always_inline)) void block(const float* a, const float* b, uint64_t dim, float* const (&to)[kRows], Next& next) {
  constexpr bool kOnDiagonal = pairs != Pairs::kAll;
  constexpr uint32_t kSelf = pairs == Pairs::kBelowAndSelf ? 1 : 0;
  constexpr uint32_t kColumns = kOnDiagonal ? kRows : kBlock;
  const auto has = [](uint32_t r, uint32_t c) { return !kOnDiagonal || c < r + kSelf; };
  __m512 sum_f32x16[kBlock][kBlock];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kBlock; ++r) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kBlock; ++c) sum_f32x16[r][c] = _mm512_setzero_ps();
  }
  for (uint64_t d = 0; d < dim; d += kLanes) {
    __m512 b_f32x16[kColumns];
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kColumns; ++c) {
      b_f32x16[c] = _mm512_load_ps(b + d * kBlock + c * kLanes);
      // Keeps it in its register: the compiler would rather read it again for every product.
      __asm__("" : "+v"(b_f32x16[c]));
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) {
      if (!has(r, 0)) continue;
      const __m512 a_f32x16 = kOnDiagonal ? b_f32x16[r] : _mm512_load_ps(a + d * kBlock + r * kLanes);
#pragma GCC unroll 4
      for (uint32_t c = 0; c < kColumns; ++c) {
        if (has(r, c)) sum_f32x16[r][c] = _mm512_fmadd_ps(a_f32x16, b_f32x16[c], sum_f32x16[r][c]);
      }
    }
  }
  next.copy();
  const __m512 dots_f32x16 = lane_sums_f32x16(sum_f32x16);
  __m128 dots_f32x4[kBlock] = {_mm512_castps512_ps128(dots_f32x16), _mm512_extractf32x4_ps(dots_f32x16, 1),
                               _mm512_extractf32x4_ps(dots_f32x16, 2), _mm512_extractf32x4_ps(dots_f32x16, 3)};
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; ++r) {
    const uint32_t count = kOnDiagonal ? r + kSelf : kBlock;
    if (count == kBlock) {
      _mm_storeu_ps(to[r], dots_f32x4[r]);
    } else if (count > 0) {
      // Keeps the compiler from storing as it extracts: that would fault on lanes that are masked out.
      __asm__("" : "+v"(dots_f32x4[r]));
      _mm_mask_storeu_ps(to[r], static_cast<__mmask8>((1u << count) - 1), dots_f32x4[r]);
    }
  }
}

// Vectors i..i + kRows with all before them, and among themselves.
template <uint32_t kRows>
void rows(const Shape& shape, const float* grouped, uint64_t i, float* out, Next& next) {
  const uint64_t dim = shape.dim, group = shape.group;
  const float *a = grouped + i / kBlock * group, *b = grouped;
  float* to[kRows];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; ++r) to[r] = out + shape.pairs_before(i + r);
  for (; b != a; b += group) {
    block<kRows, Pairs::kAll>(a, b, dim, to, next);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) to[r] += kBlock;
  }
  shape.diagonal ? block<kRows, Pairs::kBelowAndSelf>(a, a, dim, to, next) : block<kRows, Pairs::kBelow>(a, a, dim, to, next);
}

void all_rows(const Shape& shape, const float* grouped, float* out, Next& next) {
  uint32_t i = 0;
  for (; i + kBlock <= shape.num_vectors; i += kBlock) rows<kBlock>(shape, grouped, i, out, next);
  switch (shape.num_vectors - i) {
    case 1: return rows<1>(shape, grouped, i, out, next);
    case 2: return rows<2>(shape, grouped, i, out, next);
    case 3: return rows<3>(shape, grouped, i, out, next);
    default: return;
  }
}

void first_vector(const Shape& shape, const float* grouped, float* out) {
  uint64_t d = 0;
  for (; d + kLanes <= shape.dim; d += kLanes) _mm512_storeu_ps(out + d, _mm512_load_ps(grouped + d * kBlock));
  if (d < shape.dim) _mm512_mask_storeu_ps(out + d, shape.tail, _mm512_load_ps(grouped + d * kBlock));
}

}  // namespace

namespace avx512 {

void dot_interaction(const DotInteractionJob& job) {
  if (job.num_items == 0) return;
  const Shape shape(job);
  float *present = job.scratch, *other = job.scratch + shape.item_floats();
  Next{shape, job.vectors, job.strides, 0, present}.copy_rest();
  for (uint64_t item = 0; item < job.num_items; ++item) {
    float* out = job.out + item * job.out_stride;
    first_vector(shape, present, out);
    // The last item is copied again, so that it goes the same way.
    Next next{shape, job.vectors, job.strides, item + 1 < job.num_items ? item + 1 : item, other};
    all_rows(shape, present, out + shape.dim, next);
    next.copy_rest();
    float* swap = present;
    present = other;
    other = swap;
  }
}

}  // namespace avx512
}  // namespace terabag
