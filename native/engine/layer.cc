#include "engine/layer.h"

#include <cmath>
#include <utility>

namespace terabag {

uint32_t num_tensors(Op op) {
  switch (op) {
    case Op::kFc:
    case Op::kLayerNorm: return 2;
    case Op::kDotInteraction:
    case Op::kConcat:
    case Op::kSum:
    case Op::kProduct:
    case Op::kMultiplyAdd: return 0;
  }
  return 0;
}

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
  }
  return "unknown op";
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
