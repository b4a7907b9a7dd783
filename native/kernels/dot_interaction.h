#pragma once
#include <cstdint>

// The dot interaction of a batch of items: of each its first vector, then the dot products of all pairs.
//
//   for item in 0..num_items:
//     x[v] = vectors[v] + item * strides[v]
//     out + item * out_stride = x[0][0..dim)
//     for i in 0..num_vectors:
//       for j in 0..(diagonal ? i + 1 : i):
//         append sum over d in 0..dim of x[i][d] * x[j][d]
//
// Accumulator: float32, one register of partial sums for every pair, then a fixed tree over its lanes. So the bits of a pair depend on its
// two vectors and dim only, never on the other vectors, on its place or on the batch. NaN and infinity propagate.
// Ownership: all memory is the caller's; out and scratch overlap nothing else, and their content before is of no meaning. Between dim and
// out_stride, out is left alone. Cannot fail, so there is no status.
namespace terabag {

struct DotInteractionJob {
  const float* const* vectors;  // [num_vectors] pointers to [dim], those of item 0
  const uint64_t* strides;      // [num_vectors] floats from one item's to the next one's; 0 for a vector that all items share
  uint32_t num_vectors;         // at least 1
  uint32_t dim;                 // at least 1
  bool diagonal;
  uint32_t num_items;
  float* out;           // per item [dim + num_vectors * (num_vectors - 1) / 2, or (num_vectors + 1) / 2 with the diagonal]
  uint64_t out_stride;  // floats from item to item
  float* scratch;       // [interaction_scratch(num_vectors, dim)], 64-byte aligned
};

using DotInteraction = void(const DotInteractionJob& job);

// Where the pairs (i, 0), (i, 1), ... of an item start.
static inline float* pairs_of(const DotInteractionJob& job, uint64_t item, uint64_t i) {
  return job.out + item * job.out_stride + job.dim + (job.diagonal ? i * (i + 1) / 2 : i * (i - 1) / 2);
}

// An item's vectors lie as far apart as a batch of one of them is long, often in the same few lines of the L1 cache, and are read again and
// again: kernels copy them side by side into the scratch, with zeros up to the stride, an odd number of 64-byte lines.
static inline uint64_t stacked_stride(uint32_t dim) { return ((static_cast<uint64_t>(dim) + 15) / 16 | 1) * 16; }

// Floats: of two items, the present one and the next, with the vectors of each filled up to a multiple of 4.
static inline uint64_t interaction_scratch(uint32_t num_vectors, uint32_t dim) {
  return 2 * ((static_cast<uint64_t>(num_vectors) + 3) / 4 * 4) * stacked_stride(dim);
}

static inline const float* vector_of(const DotInteractionJob& job, uint64_t item, uint32_t v) {
  return job.vectors[v] + item * job.strides[v];
}

// Copies an item's vectors into the first half of the scratch.
static inline void stack_vectors(const DotInteractionJob& job, uint64_t item) {
  const uint64_t stride = stacked_stride(job.dim);
  for (uint32_t v = 0; v < job.num_vectors; ++v) {
    const float* from = vector_of(job, item, v);
    float* to = job.scratch + v * stride;
    for (uint32_t d = 0; d < job.dim; ++d) to[d] = from[d];
    for (uint64_t d = job.dim; d < stride; ++d) to[d] = 0.0f;
  }
}

namespace scalar {
DotInteraction dot_interaction;
}
namespace avx2 {
DotInteraction dot_interaction;
}
namespace avx512 {
DotInteraction dot_interaction;
}
namespace neon {
DotInteraction dot_interaction;
}

}  // namespace terabag
