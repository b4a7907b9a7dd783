#include "kernels/dot_interaction.h"

#include <arm_neon.h>

namespace terabag {
namespace {

constexpr uint32_t kLanes = 4;
// 4 x 4 pairs a block: 16 chains hide the FMA latency, and 16 sums, 4 + 1 values fit in 32 registers.
constexpr uint32_t kBlock = 4;

// Sums of 4 registers, one a lane: a fixed tree over the lanes of each.
inline float32x4_t lane_sums_f32x4(const float32x4_t* sum_f32x4) {
  return vpaddq_f32(vpaddq_f32(sum_f32x4[0], sum_f32x4[1]), vpaddq_f32(sum_f32x4[2], sum_f32x4[3]));
}

// Pairs of vectors i..i + 4 with vectors j..j + 4, as far as there are such pairs. A block on the edge computes its last vector again
// instead of none, so that every pair goes the same way.
inline void block(const DotInteractionJob& job, uint32_t item, uint32_t i, uint32_t j) {
  const uint64_t stride = stacked_stride(job.dim);
  const float *a[kBlock], *b[kBlock];
#pragma GCC unroll 4
  for (uint32_t v = 0; v < kBlock; ++v) {
    a[v] = job.scratch + (i + v < job.num_vectors ? i + v : job.num_vectors - 1) * stride;
    b[v] = job.scratch + (j + v < job.num_vectors ? j + v : job.num_vectors - 1) * stride;
  }
  float32x4_t sum_f32x4[kBlock][kBlock];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kBlock; ++r) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kBlock; ++c) sum_f32x4[r][c] = vdupq_n_f32(0.0f);
  }
  for (uint32_t d = 0; d < job.dim; d += kLanes) {
    float32x4_t b_f32x4[kBlock];
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kBlock; ++c) b_f32x4[c] = vld1q_f32(b[c] + d);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kBlock; ++r) {
      const float32x4_t a_f32x4 = vld1q_f32(a[r] + d);
#pragma GCC unroll 4
      for (uint32_t c = 0; c < kBlock; ++c) sum_f32x4[r][c] = vfmaq_f32(sum_f32x4[r][c], a_f32x4, b_f32x4[c]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kBlock; ++r) {
    const uint32_t end = job.diagonal ? i + r + 1 : i + r;
    if (i + r >= job.num_vectors || end <= j) continue;
    float* to = pairs_of(job, item, i + r) + j;
    const float32x4_t dots_f32x4 = lane_sums_f32x4(sum_f32x4[r]);
    if (end - j >= kBlock) {
      vst1q_f32(to, dots_f32x4);
    } else {
      vst1q_lane_f32(to, dots_f32x4, 0);
      if (end - j > 1) vst1q_lane_f32(to + 1, dots_f32x4, 1);
      if (end - j > 2) vst1q_lane_f32(to + 2, dots_f32x4, 2);
    }
  }
}

}  // namespace

namespace neon {

void dot_interaction(const DotInteractionJob& job) {
  for (uint32_t item = 0; item < job.num_items; ++item) {
    stack_vectors(job, item);
    for (uint32_t d = 0; d < job.dim; ++d) job.out[item * job.out_stride + d] = job.scratch[d];
    for (uint32_t i = 0; i < job.num_vectors; i += kBlock) {
      for (uint32_t j = 0; j <= i; j += kBlock) block(job, item, i, j);
    }
  }
}

}  // namespace neon
}  // namespace terabag
