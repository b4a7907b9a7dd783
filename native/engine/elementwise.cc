#include "engine/elementwise.h"

#include <algorithm>
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

// out[d] += x[d]
void add(const float* x, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = out[d] + x[d];
}

// out[d] *= x[d]
void multiply(const float* x, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = out[d] * x[d];
}

// What closes a cross layer (DCNv2: Wang et al., 2021), with y the layer's linear map of x.
void multiply_add(const float* x0, const float* y, const float* x, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = x0[d] * y[d] + x[d];
}

// As torch.nn.LayerNorm over the last dim: mean and biased variance of the row in float64, the rest in float32.
void layer_norm(const Layer& layer, const float* x, float* out) {
  const uint32_t dim = layer.dim;
  const double mean = sum_of(dim, [x](uint32_t d) { return static_cast<double>(x[d]); }) / dim;
  const auto squared = [x, mean](uint32_t d) { return (x[d] - mean) * (x[d] - mean); };
  const double inverse = 1.0 / std::sqrt(sum_of(dim, squared) / dim + layer.epsilon);
  for (uint32_t d = 0; d < dim; ++d) out[d] = static_cast<float>((x[d] - mean) * inverse) * layer.weight()[d] + layer.bias()[d];
}

}  // namespace

void run_row(const Layer& layer, const InputRows& inputs, float* out) {
  switch (layer.op) {
    case Op::kFc:
    case Op::kDotInteraction: break;
    case Op::kConcat:
      for (size_t i = 0; i < inputs.count(); ++i) out = std::copy_n(inputs[i], inputs.dim(i), out);
      break;
    case Op::kSum:
      std::copy_n(inputs[0], layer.dim, out);
      for (size_t i = 1; i < inputs.count(); ++i) add(inputs[i], layer.dim, out);
      break;
    case Op::kProduct:
      std::copy_n(inputs[0], layer.dim, out);
      for (size_t i = 1; i < inputs.count(); ++i) multiply(inputs[i], layer.dim, out);
      break;
    case Op::kMultiplyAdd: multiply_add(inputs[0], inputs[1], inputs[2], layer.dim, out); break;
    case Op::kLayerNorm: layer_norm(layer, inputs[0], out); break;
  }
}

}  // namespace terabag
