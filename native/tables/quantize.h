#pragma once
#include <cstdint>

#include "kernels/embedding_bag.h"

namespace terabag {

// How far packed rows are from the rows that they were made of, over all finite values.
struct PackError {
  double max_error = 0;
  double sum_squared_error = 0;
  double sum_squares = 0;  // of the values themselves
};

enum class PackStatus : uint32_t {
  kOk,
  kNotFinite,  // a row to quantize holds NaN or infinity
  kOverflow,   // a value, scale or bias is too large for the format
};

// Writes rows [num_rows, dim] of a plain format (fp32, fp16, bf16) as rows of another format, whose layouts are in kernels/embedding_bag.h.
//
//   int8             bias = min; scale = (max - min) / 255; q = round((x - min) * (255 / (max - min + 1e-8)))
//   int8_fp16, int4  bias = half(min); scale = half((max - bias) / (2^bits - 1)), 1 for a constant row or one whose scale vanishes;
//                    q = clamp(round((x - bias) * (1 / scale)), 0, 2^bits - 1)
//   fp16, bf16       rounded
//
// in float32, rounding to nearest even: bit for bit what PyTorch and FBGEMM write. The error is of what pooling will read, in float64.
// Rows of any alignment; on an error *bad_row is the first that cannot be written, and out is unspecified.
PackStatus pack_rows(const unsigned char* rows, RowFormat from, uint64_t num_rows, uint32_t dim, RowFormat to, unsigned char* out,
                     PackError* error, uint64_t* bad_row);

}  // namespace terabag
