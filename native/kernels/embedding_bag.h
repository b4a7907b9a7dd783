#pragma once
#include <cstdint>

// Embedding bags: weighted sums of table rows.
//
//   for job in 0..num_jobs:                      one job a table, or a part of one
//     at = 0
//     for bag in 0..num_bags:
//       count = offsets[bag + 1] - offsets[bag]
//       sum[0..dim) = 0
//       repeat count times:
//         id = indices[at]
//         if id < 0 or id >= num_rows: stop with kIndexOutOfRange and (job, bag, at, id)
//         sum[d] += (weights == null ? 1 : weights[at]) * float32(rows[id][d])    for d in 0..dim
//         at += 1
//       out[bag][d] = mean and count > 0 ? sum[d] / count : sum[d]                for d in 0..dim
//
// Accumulator: float32, one chain for every (bag, d) in the order of the ids; fused multiply-add where the instruction set has it. So the
// bits of a bag depend on its ids, weights and table only, never on how bags are split over jobs and calls. NaN and infinity propagate.
// Checks: every id before its row is read, and the id that was checked is the one used, even if the caller writes the buffer meanwhile.
// The caller has checked that offsets never decrease and that indices, weights, rows and out have the lengths that follow from them.
// Ownership: all memory is the caller's; nothing is kept. On kIndexOutOfRange the content of out is unspecified.
namespace terabag {

enum class RowFormat : uint32_t { kFp32, kFp16, kBf16 };

static constexpr uint32_t bytes_per_value(RowFormat format) { return format == RowFormat::kFp32 ? 4 : 2; }

struct BagJob {
  const unsigned char* rows;  // [num_rows, dim] of `format`, any alignment; row r starts at rows + r * row_pitch
  uint64_t num_rows;
  uint64_t row_pitch;
  uint32_t dim;  // at least 1
  RowFormat format;
  const unsigned char* indices;  // int32 or int64, any alignment; the first is the first id of bag 0
  uint32_t index_bytes;          // 4 or 8
  const unsigned char* weights;  // float32, any alignment, one per id; or null
  const uint32_t* offsets;       // [num_bags + 1]; only their differences count
  uint32_t num_bags;
  bool mean;
  float* out;  // [num_bags, dim]
};

enum class KernelStatus : uint32_t { kOk, kIndexOutOfRange };

// The first id that its table does not have.
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
