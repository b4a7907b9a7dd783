#include "engine/dense_net.h"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace terabag {
namespace {

std::atomic<uint64_t> numbers{0};

struct Value {
  const float* data;
  uint32_t dim;
  bool per_item;
  const float* row(uint64_t item) const { return data + (per_item ? item * dim : 0); }
};

// [outputs, inputs] row-major to panels of kPanel outputs, zero padded.
void pack(Layer& layer, uint32_t num_inputs) {
  const uint64_t panels = (layer.dim + kPanel - 1) / kPanel;
  std::vector<float> packed(panels * num_inputs * kPanel, 0.0f);
  for (uint64_t n = 0; n < layer.dim; ++n) {
    for (uint64_t k = 0; k < num_inputs; ++k)
      packed[((n / kPanel) * num_inputs + k) * kPanel + n % kPanel] = layer.weight[n * num_inputs + k];
  }
  layer.weight = std::move(packed);
  layer.bias.resize(panels * kPanel, 0.0f);
}

void activate(Activation activation, float* values, uint64_t length) {
  if (activation == Activation::kRelu) {
    for (uint64_t i = 0; i < length; ++i) values[i] = values[i] < 0.0f ? 0.0f : values[i];  // NaN stays NaN.
  } else if (activation == Activation::kSigmoid) {
    for (uint64_t i = 0; i < length; ++i) values[i] = 1.0f / (1.0f + std::exp(-values[i]));
  }
}

std::string check(const Layer& layer, const std::vector<uint32_t>& dims, const std::vector<uint32_t>& stages) {
  if (layer.inputs.empty() || layer.stage > 1 || layer.dim == 0) return "needs inputs, a stage 0 or 1 and a dim";
  uint64_t total = 0;
  bool alike = true;
  for (uint32_t input : layer.inputs) {
    if (input >= dims.size()) return "reads a later value";
    if (stages[input] > layer.stage) return "reads a value of a later stage";
    total += dims[input];
    alike = alike && dims[input] == dims[layer.inputs[0]];
  }
  const uint64_t count = layer.inputs.size();
  const uint64_t first = dims[layer.inputs[0]];
  switch (layer.op) {
    case Op::kFc:
      if (count != 1 || layer.weight.size() != first * layer.dim || (!layer.bias.empty() && layer.bias.size() != layer.dim))
        return "weight or bias has another length";
      return "";
    case Op::kDotInteraction:
      if (!alike || layer.dim != first + count * (layer.diagonal ? count + 1 : count - 1) / 2) return "interaction dims do not fit";
      return "";
    case Op::kConcat: return total == layer.dim ? "" : "concat dims do not fit";
    case Op::kSum: return alike && first == layer.dim ? "" : "sum dims do not fit";
  }
  return "unknown op";
}

}  // namespace

DenseNet::DenseNet(const KernelTable& kernels, std::vector<uint32_t> input_dims, uint32_t num_dense, std::vector<Layer> layers,
                   uint32_t output, std::string* error)
    : number_(++numbers),
      kernels_(kernels),
      input_dims_(std::move(input_dims)),
      num_dense_(num_dense),
      layers_(std::move(layers)),
      output_(output) {
  std::vector<uint32_t> dims = input_dims_;
  std::vector<uint32_t> stages(dims.size(), 1);
  if (num_dense_ > dims.size() || output_ < dims.size() || output_ >= dims.size() + layers_.size()) {
    *error = "number of dense inputs or output is out of range";
    return;
  }
  std::fill_n(stages.begin(), num_dense_, 0u);
  for (Layer& layer : layers_) {
    *error = check(layer, dims, stages);
    if (!error->empty()) {
      *error = "layer " + std::to_string(dims.size() - input_dims_.size()) + " " + *error;
      return;
    }
    if (layer.op == Op::kFc) pack(layer, dims[layer.inputs[0]]);
    dims.push_back(layer.dim);
    stages.push_back(layer.stage);
  }
}

uint64_t DenseNet::input_length(uint32_t from, uint32_t to, uint32_t items, const uint8_t* per_item) const {
  uint64_t length = 0;
  for (uint32_t input = from; input < to; ++input) length += static_cast<uint64_t>(input_dims_[input]) * (per_item[input] ? items : 1);
  return length;
}

bool DenseNet::staged(const Workspace& workspace, uint32_t items, const uint8_t* per_item) const {
  if (std::none_of(layers_.begin(), layers_.end(), [](const Layer& layer) { return layer.stage == 0; })) return true;
  if (workspace.net != number_ || workspace.items != items) return false;
  for (uint32_t input = 0; input < num_dense_; ++input) {
    if (workspace.per_item[input] != (per_item[input] != 0)) return false;
  }
  return true;
}

void DenseNet::run(Workspace& workspace, uint32_t stage, uint32_t items, const uint8_t* per_item, const float* dense, const float* pooled,
                   float* scores) const {
  const uint32_t inputs = num_inputs();
  workspace.net = number_;
  workspace.items = items;
  workspace.values.resize(layers_.size());
  workspace.per_item.resize(inputs + layers_.size());
  std::vector<Value> values(inputs + layers_.size());
  uint64_t at = 0;
  for (uint32_t input = 0; input < inputs; ++input) {
    if (input == num_dense_) at = 0;
    const float* block = input < num_dense_ ? dense : pooled;
    workspace.per_item[input] = per_item[input] != 0;
    values[input] = {block == nullptr ? nullptr : block + at, input_dims_[input], per_item[input] != 0};
    at += static_cast<uint64_t>(input_dims_[input]) * (per_item[input] ? items : 1);
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    bool many = false;
    for (uint32_t input : layer.inputs) many = many || workspace.per_item[input];
    workspace.per_item[inputs + l] = many;
    const uint32_t rows = many ? items : 1;
    std::vector<float>& out = workspace.values[l];
    if (layer.stage == stage) {
      if (out.size() < static_cast<uint64_t>(rows) * layer.dim) out.resize(static_cast<uint64_t>(rows) * layer.dim);
      if (layer.op == Op::kFc) {
        const Value& x = values[layer.inputs[0]];
        kernels_.fully_connected(x.data, rows, x.dim, layer.weight.data(), layer.bias.data(), layer.dim, out.data());
        activate(layer.activation, out.data(), static_cast<uint64_t>(rows) * layer.dim);
      } else {
        for (uint64_t row = 0; row < rows; ++row) {
          float* to = out.data() + row * layer.dim;
          const Value& first = values[layer.inputs[0]];
          if (layer.op == Op::kConcat) {
            for (uint32_t input : layer.inputs) to = std::copy_n(values[input].row(row), values[input].dim, to);
          } else if (layer.op == Op::kSum) {
            std::copy_n(first.row(row), layer.dim, to);
            for (size_t i = 1; i < layer.inputs.size(); ++i) {
              const float* add = values[layer.inputs[i]].row(row);
              for (uint32_t d = 0; d < layer.dim; ++d) to[d] += add[d];
            }
          } else {
            to = std::copy_n(first.row(row), first.dim, to);
            for (size_t i = 0; i < layer.inputs.size(); ++i) {
              for (size_t j = 0; j < i + (layer.diagonal ? 1 : 0); ++j) {
                *to++ = kernels_.dot(values[layer.inputs[i]].row(row), values[layer.inputs[j]].row(row), first.dim);
              }
            }
          }
        }
      }
    }
    values[inputs + l] = {out.data(), layer.dim, many};
  }
  if (scores == nullptr) return;
  const Value& result = values[output_];
  for (uint64_t item = 0; item < items; ++item) std::copy_n(result.row(item), result.dim, scores + item * result.dim);
}

}  // namespace terabag
