#include "engine/elementwise.h"

#include <algorithm>
#include <cmath>

#include "engine/partial_sums.h"

namespace terabag {
namespace {

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

void layer_norm(const Layer& layer, const float* x, float* out) {
  normalize(layer.epsilon, layer.dim, x, out);
  if (layer.weight().empty()) return;
  for (uint32_t d = 0; d < layer.dim; ++d) out[d] = out[d] * layer.weight()[d] + layer.bias()[d];
}

void apply(const KernelTable& kernels, Function function, uint32_t dim, float* out) { kernels.activate({function, out, 1, dim, dim}); }

void activate(const KernelTable& kernels, const Layer& layer, const float* x, float* out) {
  std::copy_n(x, layer.dim, out);
  Function function{};
  if (function_of(layer.activation, &function)) return apply(kernels, function, layer.dim, out);
  if (layer.activation != Activation::kRelu) return;
  for (uint32_t d = 0; d < layer.dim; ++d) out[d] = out[d] < 0.0f ? 0.0f : out[d];
}

// As torch.nn.PReLU: one slope for all values, or one each.
void prelu(const Layer& layer, const float* x, float* out) {
  const float* slope = layer.weight().data();
  const uint32_t step = layer.weight().size() == 1 ? 0 : 1;
  for (uint32_t d = 0; d < layer.dim; ++d) out[d] = x[d] < 0.0f ? slope[d * step] * x[d] : x[d];
}

// Zhou et al., 2018: p x + (1 - p) alpha x, with p the sigmoid of x, normalized by the mean and variance of training.
void dice(const KernelTable& kernels, const Layer& layer, const float* x, float* out) {
  const float *alpha = layer.tensors[0].data(), *mean = layer.tensors[1].data(), *inverse = layer.tensors[2].data();
  for (uint32_t d = 0; d < layer.dim; ++d) out[d] = (x[d] - mean[d]) * inverse[d];
  apply(kernels, Function::kSigmoid, layer.dim, out);
  for (uint32_t d = 0; d < layer.dim; ++d) out[d] = x[d] * (alpha[d] + out[d] * (1.0f - alpha[d]));
}

void scale_shift(const Layer& layer, const float* x, float* out) {
  for (uint32_t d = 0; d < layer.dim; ++d) out[d] = x[d] * layer.weight()[d];
  if (!layer.bias().empty()) add(layer.bias().data(), layer.dim, out);
}

// The largest value becomes e^0, so that none is infinite.
void softmax(const KernelTable& kernels, const float* x, uint32_t dim, float* out) {
  float most = x[0];
  for (uint32_t d = 1; d < dim; ++d) most = most < x[d] ? x[d] : most;
  for (uint32_t d = 0; d < dim; ++d) out[d] = x[d] - most;
  apply(kernels, Function::kExp, dim, out);
  const double inverse = 1.0 / sum_of(dim, [out](uint32_t d) { return static_cast<double>(out[d]); });
  for (uint32_t d = 0; d < dim; ++d) out[d] = static_cast<float>(out[d] * inverse);
}

// The first input says how much of each of the others (Ma et al., 2018).
void mixture(const InputRows& inputs, uint32_t dim, float* out) {
  const float* gate = inputs[0];
  for (uint32_t d = 0; d < dim; ++d) out[d] = gate[0] * inputs[1][d];
  for (size_t e = 1; e + 1 < inputs.count(); ++e) {
    const float* expert = inputs[e + 1];
    for (uint32_t d = 0; d < dim; ++d) out[d] = out[d] + gate[e] * expert[d];
  }
}

// The second order of a factorization machine (Rendle, 2010): the products of all pairs of vectors, added up. In float64, since most of the
// squares cancels out.
void fm(const Layer& layer, const InputRows& inputs, float* out) {
  constexpr uint32_t kPart = 16;
  const uint32_t dim = inputs.dim(0);
  double total = 0;
  for (uint32_t from = 0; from < dim; from += kPart) {
    const uint32_t count = std::min(kPart, dim - from);
    double sum[kPart] = {}, squares[kPart] = {};
    for (size_t i = 0; i < inputs.count(); ++i) {
      const float* x = inputs[i] + from;
      for (uint32_t d = 0; d < count; ++d) {
        const double value = x[d];
        sum[d] += value;
        squares[d] += value * value;
      }
    }
    for (uint32_t d = 0; d < count; ++d) {
      const double pairs = (sum[d] * sum[d] - squares[d]) / 2;
      if (layer.dim == dim) out[from + d] = static_cast<float>(pairs);
      total += pairs;
    }
  }
  if (layer.dim != dim) out[0] = static_cast<float>(total);
}

}  // namespace

void normalize(float epsilon, uint32_t dim, const float* x, float* out) {
  const double mean = sum_of(dim, [x](uint64_t d) { return static_cast<double>(x[d]); }) / dim;
  const auto squared = [x, mean](uint64_t d) { return (x[d] - mean) * (x[d] - mean); };
  const double inverse = 1.0 / std::sqrt(sum_of(dim, squared) / dim + epsilon);
  for (uint32_t d = 0; d < dim; ++d) out[d] = static_cast<float>((x[d] - mean) * inverse);
}

void run_row(const KernelTable& kernels, const Layer& layer, const InputRows& inputs, float* out) {
  switch (layer.op) {
    case Op::kFc:
    case Op::kDotInteraction:
    case Op::kSequencePool:
    case Op::kFlatten:
    case Op::kAppend:
    case Op::kPositions:
    case Op::kQueryKey:
    case Op::kSequenceSoftmax:
    case Op::kWeightedPool:
    case Op::kAttention:
    case Op::kHstuAttention:
    case Op::kGru:
    case Op::kAugru: break;
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
    case Op::kActivation: activate(kernels, layer, inputs[0], out); break;
    case Op::kPrelu: prelu(layer, inputs[0], out); break;
    case Op::kDice: dice(kernels, layer, inputs[0], out); break;
    case Op::kScaleShift: scale_shift(layer, inputs[0], out); break;
    case Op::kSoftmax: softmax(kernels, inputs[0], layer.dim, out); break;
    case Op::kMixture: mixture(inputs, layer.dim, out); break;
    case Op::kFm: fm(layer, inputs, out); break;
  }
}

}  // namespace terabag
