#pragma once
#include <cstdint>

// What attention does beside matrix multiplications: it lays the rows of a sequence out as weights of fully_connected (see there), as whose
// inputs and outputs a query then meets all positions at once, and it sums rows by their scores. A panel is `width` outputs wide.
//
//   fold_query:   out[i] = keys[i] + query[k] * products[i]      for all i of k's row of a panel: weights [panels, dim, width]
//   pack_keys:    weights [positions / width, dim, width]: dot products of a query with each position
//                   out[p / width][k][p % width] = scale * x[p][k]
//   pack_values:  weights [dim / width, positions, width]: sums over positions
//                   out[d / width][p][d % width] = x[p][d]
//   sum_rows:     out[d] = sum over p in 0..positions of scores[p] * x[p][d]
//
// The last panel is filled up with zeros. Float32, a product rounded before it is added, p ascending: the same bits for every instruction
// set. NaN and infinity propagate. Ownership: all memory is the caller's; out overlaps nothing. Cannot fail, so there is no status.
namespace terabag {

struct FoldQueryJob {
  const float* keys;  // likewise products: [panels, dim, width]
  const float* products;
  const float* query;  // [dim]
  uint32_t dim;
  uint32_t panels;
  uint32_t width;
  float* out;
};

struct PackRowsJob {
  const float* x;  // [positions, dim]; position p starts at x + p * stride
  uint64_t stride;
  uint64_t positions;
  uint32_t dim;
  uint32_t width;
  float scale;  // of keys
  float* out;
};

struct SumRowsJob {
  const float* scores;  // that of position p at scores + p * score_stride
  uint64_t score_stride;
  const float* x;  // as above
  uint64_t stride;
  uint64_t positions;
  uint32_t dim;
  float* out;
};

struct AttentionKernels {
  void (*fold_query)(const FoldQueryJob& job);
  void (*pack_keys)(const PackRowsJob& job);
  void (*pack_values)(const PackRowsJob& job);
  void (*sum_rows)(const SumRowsJob& job);
};

namespace scalar {
extern const AttentionKernels attention;
}
namespace avx2 {
extern const AttentionKernels attention;
}
namespace avx512 {
extern const AttentionKernels attention;
}
namespace neon {
extern const AttentionKernels attention;
}

}  // namespace terabag
