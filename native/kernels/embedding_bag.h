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
//         weight = weights == null ? 1 : weights[at]
//         fp32, fp16, bf16:  sum[d] += weight * float32(rows[id][d])                    for d in 0..dim
//         int8, int8_fp16:   sum[d] += (weight * scale) * q[d];  biases += weight * bias
//         int4:              sum[d] += round_to_float32((weight * scale) * q[d]);  biases += weight * bias
//         at += 1
//       quantized: sum[d] += biases, once
//       out[bag][d] = mean and count > 0 ? sum[d] / count : sum[d]                for d in 0..dim
//
// Row formats. The quantized ones hold q, unsigned, then scale and bias of the row, without padding; value d is scale * q[d] + bias. They
// are the fused row-wise formats of FBGEMM and PyTorch (Guan et al., Post-training 4-bit quantization on embedding tables, 2019):
//   int8       dim bytes, scale and bias as float32        torch.ops.quantized.embedding_bag_byte_prepack
//   int8_fp16  dim bytes, scale and bias as float16        fbgemm, FusedNBitRowwiseQuantizedSBHalf with 8 bits
//   int4       (dim + 1) / 2 bytes, value 2i in the low half of byte i, scale and bias as float16
//                                                          torch.ops.quantized.embedding_bag_4bit_prepack
//
// Accumulator: float32, one chain for every (bag, d) in the order of the ids; fused multiply-add where the instruction set has it, apart
// from int4, which rounds the product first: it comes from a table of 16. So the bits of a bag depend on its ids, weights and table only,
// never on how bags are split over jobs and calls. NaN and infinity propagate.
// Checks: every id before its row is read, and the id that was checked is the one used, even if the caller writes the buffer meanwhile.
// The caller has checked that offsets never decrease and that indices, weights, rows and out have the lengths that follow from them.
// Ownership: all memory is the caller's; nothing is kept. On kIndexOutOfRange the content of out is unspecified.
namespace terabag {

enum class RowFormat : uint32_t { kFp32, kFp16, kBf16, kInt8, kInt8Fp16, kInt4 };

static constexpr uint64_t bytes_per_row(RowFormat format, uint64_t dim) {
  switch (format) {
    case RowFormat::kFp32: return dim * 4;
    case RowFormat::kFp16:
    case RowFormat::kBf16: return dim * 2;
    case RowFormat::kInt8: return dim + 8;
    case RowFormat::kInt8Fp16: return dim + 4;
    case RowFormat::kInt4: return (dim + 1) / 2 + 4;
  }
  return 0;
}

// How far ahead of the row in work rows are fetched, in cache lines, and whether into L2 only. A core waits for more lines at a time for
// its L2 than for its L1 (Zen 4: twice the lookups of two lines a second), and reads what lies in L2 without waiting. The distance has to
// cover a memory access at a core's bandwidth.
struct Prefetch {
  uint32_t lines = 128;
  bool to_l2 = true;
};

struct BagJob {
  const unsigned char* rows;  // [num_rows] of bytes_per_row(format, dim), any alignment; row r starts at rows + r * row_pitch
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
  Prefetch prefetch;  // while the stream of rows that are fetched ahead is in this job
  float* out;         // [num_bags, dim]
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
