#pragma once
#include <cstdint>

namespace terabag {

// Partial sums that the compiler can keep in vectors: their order is fixed, whatever the instruction set.
constexpr uint64_t kPartialSums = 8;

template <typename Term>
double sum_of(uint64_t dim, const Term& term) {
  double partial[kPartialSums] = {};
  uint64_t d = 0;
  for (; d + kPartialSums <= dim; d += kPartialSums) {
    for (uint64_t p = 0; p < kPartialSums; ++p) partial[p] += term(d + p);
  }
  for (uint64_t p = 0; d < dim; ++d, ++p) partial[p] += term(d);
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace terabag
