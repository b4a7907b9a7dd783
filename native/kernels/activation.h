#pragma once
#include <cstdint>

// A function of each value, in place.
//
//   values[row][d] = f(values[row][d])      for row in 0..num_rows, d in 0..dim
//
//   kExp:       e^x
//   kSigmoid:   1 / (1 + e^-x)
//   kTanh:      tanh(x)
//   kSilu:      x * sigmoid(x)
//   kGelu:      x * (1 + erf(x / sqrt(2))) / 2
//   kGeluTanh:  x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2
//
// Float32 throughout. Units in the last place (ULP) of the exact result that values are off, at most: see kMaxUlps; in the tails too, where
// results are no longer normal numbers. Limits are exact: an infinite x gives what f tends to (kSilu, kGelu and kGeluTanh
// of minus infinity: -0), and so does a large one. -0 gives f(-0) with its sign, NaN gives NaN. Fused multiply-add where the instruction
// set has it: instruction sets that have it give the same bits.
// A value's bits depend on the value alone, not on where it lies.
//
// Softmax of each row, in place:
//
//   values[row][d] = e^(values[row][d] - m) / sum over i in 0..dim of e^(values[row][i] - m)      m: the row's largest value
//
// A row of minus infinity, or with NaN or infinity, becomes NaN. Sums have an order of their own in each instruction set, in parts that are
// added in double; a row's bits depend on the row alone.
//
// Ownership: the memory is the caller's, and what lies between the rows is
// left alone. Cannot fail, so there is no status.
namespace terabag {

enum class Function : uint32_t { kExp, kSigmoid, kTanh, kSilu, kGelu, kGeluTanh };

// By the values of Function; each float between 2^-30 and 128, of either sign, was tried, fused and not: 1.02, 2.41, 1.47, 3.40, 4.94 and
// 3.80.
inline constexpr double kMaxUlps[] = {1.1, 2.5, 1.5, 3.5, 5.0, 4.0};

struct ActivationJob {
  Function function;
  float* values;  // [num_rows, dim]; row r starts at values + r * stride
  uint64_t num_rows;
  uint64_t dim;
  uint64_t stride;
};

struct SoftmaxJob {
  float* values;  // as above; likewise the others
  uint64_t num_rows;
  uint64_t dim;
  uint64_t stride;
};

using Activate = void(const ActivationJob& job);
using Softmax = void(const SoftmaxJob& job);

namespace scalar {
Activate activate;
Softmax softmax;
}  // namespace scalar
namespace avx2 {
Activate activate;
Softmax softmax;
}  // namespace avx2
namespace avx512 {
Activate activate;
Softmax softmax;
}  // namespace avx512
namespace neon {
Activate activate;
Softmax softmax;
}  // namespace neon

}  // namespace terabag
