#include "engine/elementwise.h"

#include <cmath>

namespace terabag {
namespace {

// Partial sums that the compiler can keep in vectors: their order is fixed, whatever the instruction set.
constexpr uint32_t kPartialSums = 8;

template <typename Term>
double sum_of(uint32_t dim, const Term& term) {
  double partial[kPartialSums] = {};
  uint32_t d = 0;
  for (; d + kPartialSums <= dim; d += kPartialSums) {
    for (uint32_t p = 0; p < kPartialSums; ++p) partial[p] += term(d + p);
  }
  for (uint32_t p = 0; d < dim; ++d, ++p) partial[p] += term(d);
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace

void add(const float* x, const float* y, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = x[d] + y[d];
}

void multiply(const float* x, const float* y, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = x[d] * y[d];
}

void multiply_add(const float* x0, const float* y, const float* x, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = x0[d] * y[d] + x[d];
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, uint32_t dim, float* out) {
  const double mean = sum_of(dim, [x](uint32_t d) { return static_cast<double>(x[d]); }) / dim;
  const auto squared = [x, mean](uint32_t d) { return (x[d] - mean) * (x[d] - mean); };
  const double inverse = 1.0 / std::sqrt(sum_of(dim, squared) / dim + epsilon);
  for (uint32_t d = 0; d < dim; ++d) out[d] = static_cast<float>((x[d] - mean) * inverse) * weight[d] + bias[d];
}

}  // namespace terabag
