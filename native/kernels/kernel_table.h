#pragma once
#include <cstddef>
#include <cstdint>

// The kernels of one instruction set. No Node, no allocation, no exceptions. Per-ISA files include intrinsics and this header only.
namespace terabag {

enum class RowFormat : uint32_t { kFp32, kFp16, kBf16 };

// Embedding bags over one table, or one part of it:
//   for bag in 0..num_bags:  out[bag][d] = sum over i in [offsets[bag], offsets[bag + 1]) of weight[i] * row(index[i])[d]
// accumulated in fp32 in the order of i; a mean is divided by the number of ids; a bag without ids is zero. NaN and infinity propagate.
// offsets are relative to `indices` and were checked by the caller. Every id is checked before its row is read.
struct BagJob {
  const unsigned char* rows;  // logical row r starts at rows + r * row_pitch
  uint64_t num_rows;
  uint64_t row_pitch;
  uint32_t dim;
  RowFormat format;
  const unsigned char* indices;  // int32 or int64, any alignment
  uint32_t index_bytes;
  const unsigned char* weights;  // float32, any alignment, or null
  const unsigned char* offsets;  // uint32, any alignment, num_bags + 1
  uint32_t num_bags;
  bool mean;
  float* out;  // [num_bags, dim]
};

// Position of the first id that the table does not have, or -1.
using PoolBags = int64_t (*)(const BagJob& job, uint32_t* bad_bag);

// y[row][n] = bias[n] + sum over k of x[row][k] * weight[n][k], k ascending, so that the bits do not depend on the batch.
// Weights are packed in panels of kPanel outputs: packed[panel][k][kPanel], zero padded; bias likewise.
constexpr uint32_t kPanel = 16;
using FullyConnected = void (*)(const float* x, uint32_t num_rows, uint32_t num_inputs, const float* packed, const float* bias,
                                uint32_t num_outputs, float* y);

// Dot product of two vectors.
using Dot = float (*)(const float* a, const float* b, uint32_t dim);

struct KernelTable {
  const char* name;
  PoolBags pool_bags;
  FullyConnected fully_connected;
  Dot dot;
};

extern const KernelTable kScalarKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
#endif

// Names of the kernels that this CPU runs, best last; null-terminated.
const char* const* available_kernels();
// The kernels in use: the best, or the ones that TERABAG_ISA names. Null when that names none that runs here.
const KernelTable* selected_kernels();

}  // namespace terabag
