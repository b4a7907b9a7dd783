#include "engine/layer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace terabag {

uint32_t num_tensors(Op op) {
  switch (op) {
    case Op::kPositions:
    case Op::kHstuAttention: return 1;
    case Op::kFc:
    case Op::kLayerNorm:
    case Op::kScaleShift:
    case Op::kQueryKey:
    case Op::kGru:
    case Op::kAugru: return 2;
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
    case Op::kFm:
    case Op::kSequencePool:
    case Op::kFlatten:
    case Op::kAppend:
    case Op::kSequenceSoftmax:
    case Op::kWeightedPool:
    case Op::kAttention: return 0;
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

bool is_vector_of(const Shape& value, uint64_t dim) { return value.positions == 0 && value.dim == dim; }

std::string check_query_key(const Layer& layer, const std::vector<Shape>& values) {
  const Shape& sequence = values[layer.inputs[0]];
  if (layer.inputs.size() != 2 || !is_vector_of(values[layer.inputs[1]], sequence.dim) || layer.positions != sequence.positions)
    return "query_key needs a sequence and a vector of its dim, and gives a sequence of as many positions";
  for (size_t i = 0; i < layer.features.size(); ++i) {
    if (std::find(layer.features.begin(), layer.features.begin() + i, layer.features[i]) != layer.features.begin() + i)
      return "query_key has a feature twice";
  }
  const uint64_t columns = layer.features.size() * static_cast<uint64_t>(sequence.dim);
  if (columns == 0 || layer.weight().size() != columns * layer.dim || (!layer.bias().empty() && layer.bias().size() != layer.dim))
    return "weight or bias has another length";
  return "";
}

std::string check_attention(const Layer& layer, const Shape& sequence) {
  if (layer.inputs.size() != 1 || layer.positions != sequence.positions || layer.heads == 0 || layer.dim % layer.heads != 0)
    return "attention needs one sequence and a dim that its heads divide, and gives a sequence of as many positions";
  if (layer.op == Op::kAttention) return sequence.dim == uint64_t{3} * layer.dim ? "" : "attention reads three times its dim";
  const uint64_t values = uint64_t{2} * layer.dim;
  if (sequence.dim <= values || (sequence.dim - values) % (2 * layer.heads) != 0)
    return "hstu_attention reads twice its dim, queries and keys";
  if (!layer.tensors[0].empty() && layer.tensors[0].size() != uint64_t{2} * sequence.positions - 1)
    return "hstu_attention needs a bias for each distance of two positions";
  if (!(layer.normalizer > 0 && std::isfinite(layer.normalizer)) || !(layer.epsilon >= 0 && std::isfinite(layer.epsilon)))
    return "hstu_attention needs a finite normalizer above 0 and a finite epsilon of 0 or more";
  return "";
}

// A second input of scores: one for each position of the first.
bool is_scored(const Layer& layer, const std::vector<Shape>& values) {
  if (layer.inputs.size() != 2) return false;
  const Shape &sequence = values[layer.inputs[0]], &scores = values[layer.inputs[1]];
  return scores.dim == 1 && scores.positions == sequence.positions && scores.appended == sequence.appended;
}

std::string check_gru(const Layer& layer, const std::vector<Shape>& values) {
  const Shape& sequence = values[layer.inputs[0]];
  const uint64_t gates = uint64_t{3} * layer.dim;
  if (layer.op == Op::kAugru ? !is_scored(layer, values) : layer.inputs.size() != 1)
    return "gru reads one sequence, and augru scores of it";
  if (sequence.dim != gates || layer.positions != sequence.positions || layer.weight().size() != gates * layer.dim ||
      (!layer.bias().empty() && layer.bias().size() != gates))
    return "weight or bias has another length";
  return "";
}

// Layers of inputs that are all of one kind.
std::string check_rows(const Layer& layer, const std::vector<Shape>& values) {
  const Shape& shape = values[layer.inputs[0]];
  uint64_t total = 0;
  bool alike = true;
  for (uint32_t input : layer.inputs) {
    const Shape& other = values[input];
    if (other.positions != shape.positions || other.appended != shape.appended)
      return "has to read vectors, or sequences of the same lengths";
    total += other.dim;
    alike = alike && other.dim == shape.dim;
  }
  const uint64_t count = layer.inputs.size();
  const uint64_t first = shape.dim;
  if (layer.positions != shape.positions) return "positions have to be those of its inputs";
  switch (layer.op) {
    case Op::kFc:
      if (count != 1 || layer.weight().size() != first * layer.dim || (!layer.bias().empty() && layer.bias().size() != layer.dim))
        return "weight or bias has another length";
      return "";
    case Op::kDotInteraction:
      if (shape.positions > 0) return "dot_interaction reads vectors only";
      if (!alike || layer.dim != first + count * (layer.diagonal ? count + 1 : count - 1) / 2) return "interaction dims do not fit";
      return "";
    case Op::kConcat: return total == layer.dim ? "" : "concat dims do not fit";
    case Op::kSum:
    case Op::kProduct: return alike && first == layer.dim ? "" : "dims do not fit";
    case Op::kMultiplyAdd: return count == 3 && alike && first == layer.dim ? "" : "multiply_add needs three inputs of its dim";
    case Op::kLayerNorm:
      if (count != 1 || first != layer.dim || layer.weight().size() != layer.bias().size() ||
          (!layer.weight().empty() && layer.weight().size() != first) || !(layer.epsilon >= 0 && std::isfinite(layer.epsilon)))
        return "layer_norm needs one input of its dim, weight and bias as long or neither, and a finite epsilon of 0 or more";
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
      for (uint64_t i = 1; i < count; ++i) experts = experts && values[layer.inputs[i]].dim == layer.dim;
      return experts ? "" : "mixture needs a gate, and of its dim as many inputs as the gate has values";
    }
    case Op::kFm: return alike && (layer.dim == first || layer.dim == 1) ? "" : "fm needs inputs of one dim, its own unless that is 1";
    default: return "unknown op";
  }
}

// Layers whose first input is a sequence.
std::string check_sequence(const Layer& layer, const std::vector<Shape>& values) {
  const Shape& sequence = values[layer.inputs[0]];
  const uint64_t count = layer.inputs.size();
  if (sequence.positions == 0) return "has to read a sequence";
  switch (layer.op) {
    case Op::kSequencePool:
      return count == 1 && layer.dim == sequence.dim && layer.positions == 0 ? "" : "sequence_pool gives one vector of its input's dim";
    case Op::kFlatten:
      if (count != 1 || layer.dim != static_cast<uint64_t>(sequence.positions) * sequence.dim || layer.positions != 0)
        return "flatten gives one vector of all positions";
      return "";
    case Op::kAppend:
      if (count != 2 || values[layer.inputs[1]].positions != 0 || values[layer.inputs[1]].dim != sequence.dim ||
          layer.dim != sequence.dim || layer.positions != sequence.positions + 1)
        return "append needs a sequence and a vector of its dim, and gives one position more";
      return "";
    case Op::kPositions:
      if (count != 1 || layer.dim != sequence.dim || layer.positions != sequence.positions ||
          layer.tensors[0].size() != static_cast<uint64_t>(sequence.positions) * sequence.dim)
        return "positions needs one sequence, and as weight a vector of its dim for each position";
      return "";
    case Op::kQueryKey: return check_query_key(layer, values);
    case Op::kSequenceSoftmax:
      return count == 1 && sequence.dim == 1 && layer.dim == 1 && layer.positions == sequence.positions
                 ? ""
                 : "sequence_softmax needs one sequence of dim 1, and gives the like";
    case Op::kWeightedPool:
      return is_scored(layer, values) && layer.dim == sequence.dim && layer.positions == 0
                 ? ""
                 : "weighted_pool needs a sequence and its scores, and gives a vector of its dim";
    case Op::kAttention:
    case Op::kHstuAttention: return check_attention(layer, sequence);
    case Op::kGru:
    case Op::kAugru: return check_gru(layer, values);
    default: return "unknown op";
  }
}

}  // namespace

bool is_row_by_row(Op op) {
  switch (op) {
    case Op::kFc:
    case Op::kDotInteraction:
    case Op::kConcat:
    case Op::kSum:
    case Op::kProduct:
    case Op::kMultiplyAdd:
    case Op::kLayerNorm:
    case Op::kActivation:
    case Op::kPrelu:
    case Op::kDice:
    case Op::kScaleShift:
    case Op::kSoftmax:
    case Op::kMixture:
    case Op::kFm: return true;
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
    case Op::kAugru: return false;
  }
  return false;
}

std::string check_layer(const Layer& layer, const std::vector<Shape>& values) {
  if (layer.inputs.empty() || layer.dim == 0) return "needs inputs and a dim";
  for (uint32_t input : layer.inputs) {
    if (input >= values.size()) return "reads a later value";
    if (values[input].stage > layer.stage) return "reads a value of a later stage";
  }
  if (layer.tensors.size() != num_tensors(layer.op)) return "has another number of tensors than its operation";
  return is_row_by_row(layer.op) ? check_rows(layer, values) : check_sequence(layer, values);
}

Shape shape_of(const Layer& layer, const std::vector<Shape>& values) {
  const Shape& first = values[layer.inputs[0]];
  // Vectors are alike wherever they come from.
  const uint32_t appended = layer.positions == 0 ? 0 : first.appended + (layer.op == Op::kAppend ? 1 : 0);
  return {layer.dim, layer.stage, layer.positions, first.input, appended};
}

AlignedFloats pack_panels(const AlignedFloats& weight, uint32_t outputs, uint32_t inputs, uint32_t panel_width) {
  const uint64_t panels = (outputs + panel_width - 1) / panel_width;
  AlignedFloats packed(panels * inputs * panel_width, 0.0f);
  for (uint64_t n = 0; n < outputs; ++n) {
    float* column = packed.data() + n / panel_width * inputs * panel_width + n % panel_width;
    for (uint64_t k = 0; k < inputs; ++k) column[k * panel_width] = weight[n * inputs + k];
  }
  return packed;
}

void prepare_layer(Layer& layer) {
  if (layer.op != Op::kDice) return;
  for (float& variance : layer.tensors[2]) variance = static_cast<float>(1.0 / std::sqrt(static_cast<double>(variance) + layer.epsilon));
}

void pack_layer(Layer& layer, uint32_t num_inputs, uint32_t panel_width, Precision precision) {
  const uint64_t outputs = layer.weight().size() / num_inputs;
  layer.bias().resize((outputs + panel_width - 1) / panel_width * panel_width, 0.0f);
  if (precision == Precision::kFp32) {
    layer.weight() = pack_panels(layer.weight(), static_cast<uint32_t>(outputs), num_inputs, panel_width);
    return;
  }
  layer.narrow = narrow_weights(precision, layer.weight().data(), layer.dim, num_inputs, panel_width);
  layer.weight() = {};
}

}  // namespace terabag
