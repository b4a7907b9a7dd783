#pragma once
#include <cstdint>

// The dot interaction of one item: its first vector, then the dot products of all pairs.
//
//   out = vectors[0][0..dim)
//   for i in 0..num_vectors:
//     for j in 0..(diagonal ? i + 1 : i):
//       append sum over d in 0..dim of vectors[i][d] * vectors[j][d]
//
// Accumulator: float32, one register of partial sums for every pair, then a fixed tree over its lanes. So the bits of a pair depend on its
// two vectors and dim only, never on the other vectors or on its place. NaN and infinity propagate.
// Ownership: all memory is the caller's; out overlaps no vector. Cannot fail, so there is no status.
namespace terabag {

struct DotInteractionJob {
  const float* const* vectors;  // [num_vectors] pointers to [dim]
  uint32_t num_vectors;         // at least 1
  uint32_t dim;                 // at least 1
  bool diagonal;
  float* out;  // [dim + num_vectors * (num_vectors - 1) / 2, or (num_vectors + 1) / 2 with the diagonal]
};

using DotInteraction = void(const DotInteractionJob& job);

// Where the pairs (i, 0), (i, 1), ... start in out.
static inline float* pairs_of(const DotInteractionJob& job, uint64_t i) {
  return job.out + job.dim + (job.diagonal ? i * (i + 1) / 2 : i * (i - 1) / 2);
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
