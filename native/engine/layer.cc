#include "engine/layer.h"

#include <cmath>
#include <utility>

namespace terabag {

uint32_t num_tensors(Op op) {
  switch (op) {
    case Op::kFc:
    case Op::kLayerNorm:
    case Op::kScaleShift: return 2;
    case Op::kPrelu: return 1;
    case Op::kDice: return 3;
    case Op::kDotInteraction:
    case Op::kConcat:
    case Op::kSum:
    case Op::kProduct:
    case Op::kMultiplyAdd:
    case Op::kActivation:
    case Op::kSoftmax:
    case Op::kMixture:
    case Op::kFm: return 0;
  }
  return 0;
}

bool function_of(Activation activation, Function* function) {
  switch (activation) {
    case Activation::kNone:
    case Activation::kRelu: return false;
    case Activation::kSigmoid: *function = Function::kSigmoid; return true;
    case Activation::kTanh: *function = Function::kTanh; return true;
    case Activation::kGelu: *function = Function::kGelu; return true;
    case Activation::kGeluTanh: *function = Function::kGeluTanh; return true;
    case Activation::kSilu: *function = Function::kSilu; return true;
  }
  return false;
}

namespace {

std::string check_dice(const Layer& layer) {
  for (const AlignedFloats& tensor : layer.tensors) {
    if (tensor.size() != layer.dim) return "dice needs alpha, mean and variance of its dim";
  }
  for (const float variance : layer.tensors[2]) {
    const float sum = variance + layer.epsilon;
    if (!(variance >= 0 && sum > 0 && std::isfinite(sum)))
      return "dice needs variances of 0 or more that are above 0 with epsilon added: " + std::to_string(variance);
  }
  return "";
}

}  // namespace

std::string check_layer(const Layer& layer, const std::vector<uint32_t>& dims, const std::vector<uint32_t>& stages) {
  if (layer.inputs.empty() || layer.dim == 0) return "needs inputs and a dim";
  uint64_t total = 0;
  bool alike = true;
  for (uint32_t input : layer.inputs) {
    if (input >= dims.size()) return "reads a later value";
    if (stages[input] > layer.stage) return "reads a value of a later stage";
    total += dims[input];
    alike = alike && dims[input] == dims[layer.inputs[0]];
  }
  if (layer.tensors.size() != num_tensors(layer.op)) return "has another number of tensors than its operation";
  const uint64_t count = layer.inputs.size();
  const uint64_t first = dims[layer.inputs[0]];
  switch (layer.op) {
    case Op::kFc:
      if (count != 1 || layer.weight().size() != first * layer.dim || (!layer.bias().empty() && layer.bias().size() != layer.dim))
        return "weight or bias has another length";
      return "";
    case Op::kDotInteraction:
      if (!alike || layer.dim != first + count * (layer.diagonal ? count + 1 : count - 1) / 2) return "interaction dims do not fit";
      return "";
    case Op::kConcat: return total == layer.dim ? "" : "concat dims do not fit";
    case Op::kSum:
    case Op::kProduct: return alike && first == layer.dim ? "" : "dims do not fit";
    case Op::kMultiplyAdd: return count == 3 && alike && first == layer.dim ? "" : "multiply_add needs three inputs of its dim";
    case Op::kLayerNorm:
      if (count != 1 || first != layer.dim || layer.weight().size() != first || layer.bias().size() != first ||
          !(layer.epsilon >= 0 && std::isfinite(layer.epsilon)))
        return "layer_norm needs one input of its dim, weight and bias as long, and a finite epsilon of 0 or more";
      return "";
    case Op::kActivation:
    case Op::kSoftmax: return count == 1 && first == layer.dim ? "" : "needs one input of its dim";
    case Op::kPrelu:
      if (count != 1 || first != layer.dim || (layer.weight().size() != 1 && layer.weight().size() != first))
        return "prelu needs one input of its dim, and a weight of one value or as long";
      return "";
    case Op::kDice:
      if (count != 1 || first != layer.dim || !(layer.epsilon >= 0 && std::isfinite(layer.epsilon)))
        return "dice needs one input of its dim, and a finite epsilon of 0 or more";
      return check_dice(layer);
    case Op::kScaleShift:
      if (count != 1 || first != layer.dim || layer.weight().size() != first || (!layer.bias().empty() && layer.bias().size() != first))
        return "scale_shift needs one input of its dim, and scale and shift as long";
      return "";
    case Op::kMixture: {
      bool experts = count == first + 1;
      for (uint64_t i = 1; i < count; ++i) experts = experts && dims[layer.inputs[i]] == layer.dim;
      return experts ? "" : "mixture needs a gate, and of its dim as many inputs as the gate has values";
    }
    case Op::kFm: return alike && (layer.dim == first || layer.dim == 1) ? "" : "fm needs inputs of one dim, its own unless that is 1";
  }
  return "unknown op";
}

void prepare_layer(Layer& layer) {
  if (layer.op != Op::kDice) return;
  for (float& variance : layer.tensors[2]) variance = static_cast<float>(1.0 / std::sqrt(static_cast<double>(variance) + layer.epsilon));
}

void pack_layer(Layer& layer, uint32_t num_inputs, uint32_t panel_width, Precision precision) {
  const uint64_t panels = (layer.dim + panel_width - 1) / panel_width;
  layer.bias().resize(panels * panel_width, 0.0f);
  if (precision != Precision::kFp32) {
    layer.narrow = narrow_weights(precision, layer.weight().data(), layer.dim, num_inputs, panel_width);
    layer.weight() = {};
    return;
  }
  AlignedFloats packed(panels * num_inputs * panel_width, 0.0f);
  for (uint64_t n = 0; n < layer.dim; ++n) {
    float* column = packed.data() + n / panel_width * num_inputs * panel_width + n % panel_width;
    for (uint64_t k = 0; k < num_inputs; ++k) column[k * panel_width] = layer.weight()[n * num_inputs + k];
  }
  layer.weight() = std::move(packed);
}

}  // namespace terabag
