#pragma once
#include <cstdint>

#include "kernels/key_index.h"
#include "kernels/row_format.h"

// Embedding bags: weighted sums of table rows, their means, and maxima.
//
//   for job in 0..num_jobs:                      one job a table, or a part of one
//     at = 0
//     for bag in 0..num_bags:
//       count = 0
//       sum[0..dim) = 0
//       for at in offsets[bag] - offsets[0] .. offsets[bag + 1] - offsets[0]:
//         id = indices[at]
//         row = unseen.pads and id == unseen.padding_id: skipped
//               keys == null and 0 <= id < num_rows:     rows[id]
//               keys has a row below num_rows for id:    rows[that]
//               unseen.policy == row:                    unseen.row
//               unseen.policy == hash:                   unseen.row, and mix64(id) mod unseen.buckets rows behind it
//               unseen.policy == skip:                   skipped
//               else:                                    stop with kIndexOutOfRange and (job, bag, at, id)
//         if skipped: go on with the next id; its weight is not read
//         weight = weights == null ? 1 : weights[at]
//         fp32, fp16, bf16:  sum[d] += weight * float32(row[d])                         for d in 0..dim
//         int8, int8_fp16:   sum[d] += (weight * scale) * q[d];  biases += weight * bias
//         int4:              sum[d] += round_to_float32((weight * scale) * q[d]);  biases += weight * bias
//         count += 1
//       quantized: sum[d] += biases, once
//       divisor = pooling == weighted_mean ? sum of the weights that were read : count
//       pooling is mean or weighted_mean, and not job.divisor:  sum[d] = divisor == 0 ? 0 : sum[d] / divisor
//       out[bag][d] = sum[d]                                                      for d in 0..dim
//       if job.divisor: out[bag][dim] = divisor, by which the means are not divided then
//
// pooling == max, where biases cannot be added once: each row has its own.
//         fp32, fp16, bf16:  value = weight * float32(row[d])
//         quantized:         value = (weight * scale) * q[d] + weight * bias
//         maximum[d] = maximum[d] > value or maximum[d] is NaN ? maximum[d] : value      from -infinity on
//       out[bag][d] = count == 0 ? 0 : maximum[d] + 0
//
// The layouts of the row formats are in row_format.h, that of an index in key_index.h; mix64 is in mix64.h.
//
// Accumulator: float32, one chain for every (bag, d) in the order of the ids; fused multiply-add where the instruction set has it, apart
// from int4, which rounds the product first: it comes from a table of 16. So the bits of a bag depend on its ids, weights and table only,
// never on how bags are split over jobs and calls. Those of a maximum do not depend on the order of its ids either: a zero has no sign.
// NaN and infinity propagate: a maximum with a NaN among its values is NaN. An empty bag is all zeros, and so is a weighted mean whose
// weights add up to 0.
// Checks: every id before its row is read, and the id that was checked is the one used, even if the caller writes the buffer meanwhile.
// The caller has checked that offsets never decrease, that indices, weights, rows and out have the lengths that follow from them, and the
// rule. Ownership: all memory is the caller's; nothing is kept. On kIndexOutOfRange the content of out is unspecified, and num_unseen may
// have grown by ids behind the one that was refused.
namespace terabag {

// What becomes of the rows of a bag. src/model/pooling.ts has the same table, and refuses an addon whose table differs.
// X(pooling, name in model.json, what it adds to the flags of a request's segment)
#define TERABAG_POOLINGS(X) \
  X(kSum, "sum", 0)         \
  X(kMean, "mean", 1)       \
  X(kMax, "max", 4)         \
  X(kWeightedMean, "weighted_mean", 8)

enum class Pooling : uint32_t {
#define TERABAG_ENUMERATOR(pooling, name, flag) pooling,
  TERABAG_POOLINGS(TERABAG_ENUMERATOR)
#undef TERABAG_ENUMERATOR
};

struct PoolingInfo {
  Pooling pooling;
  const char* name;
  uint32_t flag;
};

static constexpr PoolingInfo kPoolings[] = {
#define TERABAG_INFO(pooling, name, flag) {Pooling::pooling, name, flag},
    TERABAG_POOLINGS(TERABAG_INFO)
#undef TERABAG_INFO
};

// How far ahead of the row in work rows are fetched, in cache lines, and whether into L2 only. A core waits for more lines at a time for
// its L2 than for its L1 (Zen 4: twice the lookups of two lines a second), and reads what lies in L2 without waiting. The distance has to
// cover a memory access at a core's bandwidth.
struct Prefetch {
  uint32_t lines = 128;
  bool to_l2 = true;
};

// What becomes of an id that its table does not have.
enum class UnseenPolicy : uint32_t {
  kReject,
  kSkip,  // as if the id, and its weight, were not there
  kRow,   // the rule's row
  kHash,  // a row that follows from the id
};

// The rule of a job's ids. All zeros: an id that the table does not have is refused, and none is padding.
struct UnseenRule {
  UnseenPolicy policy;
  bool pads;  // whether padding_id is skipped, also when the table has it
  int64_t padding_id;
  const unsigned char* row;  // kRow, and the first of kHash: of the job's format and dim, any alignment
  uint64_t buckets;          // kHash: at least 1; rows that lie as far apart as the job's
};

struct BagJob {
  const unsigned char* rows;  // [num_rows] of bytes_per_row(format, dim), any alignment; row r starts at rows + r * row_pitch
  uint64_t num_rows;
  uint64_t row_pitch;
  const KeyIndex* keys;  // of a keyed table, whose ids are any 64 bits (32-bit ones are sign-extended); null: ids are rows
  uint32_t dim;          // at least 1
  RowFormat format;
  const unsigned char* indices;  // int32 or int64, any alignment; the first is the first id of bag 0
  uint32_t index_bytes;          // 4 or 8
  const unsigned char* weights;  // float32, any alignment, one per id; or null
  const uint32_t* offsets;       // [num_bags + 1]; only their differences count
  uint32_t num_bags;
  Pooling pooling;
  bool divisor;       // whether a bag's divisor follows its values
  Prefetch prefetch;  // while the stream of rows that are fetched ahead is in this job
  UnseenRule unseen;
  uint64_t* num_unseen;  // grows by the number of ids that the table did not have and the rule let pass; may be shared by threads; or null
  float* out;            // [num_bags, floats_per_bag]
};

static inline uint64_t floats_per_bag(const BagJob& job) { return static_cast<uint64_t>(job.dim) + (job.divisor ? 1 : 0); }

enum class KernelStatus : uint32_t { kOk, kIndexOutOfRange };

// The first id that its table does not have, where the rule is to reject those.
struct BadIndex {
  uint32_t job;
  uint32_t bag;
  uint64_t position;  // counted from the job's first id
  int64_t value;
};

using PoolBags = KernelStatus(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad);

namespace scalar {
PoolBags pool_bags;
}
namespace avx2 {
PoolBags pool_bags;
}
namespace avx512 {
PoolBags pool_bags;
}
namespace neon {
PoolBags pool_bags;
}

}  // namespace terabag
