#pragma once
#include <cstdint>
#include <vector>

#include "engine/layer.h"
#include "kernels/kernel_table.h"

namespace terabag {

// One item's rows of a layer's inputs.
class InputRows {
 public:
  // values: of the net, by number.
  InputRows(const Layer& layer, const std::vector<Value>& values, uint64_t item) : layer_(layer), values_(values), item_(item) {}
  size_t count() const { return layer_.inputs.size(); }
  const float* operator[](size_t input) const { return value(input).row(item_); }
  uint32_t dim(size_t input) const { return value(input).dim; }

 private:
  const Value& value(size_t input) const { return values_[layer_.inputs[input]]; }

  const Layer& layer_;
  const std::vector<Value>& values_;
  const uint64_t item_;
};

// Layers that pass over a row a few times: one row of one of them, of layer.dim floats, into out, which overlaps no input. They are a small
// part of any net's time, so that one portable version serves every instruction set, with the same bits on all, but for the functions of
// native/kernels/activation.h. NaN and infinity propagate. prepare_layer saw the layer; fully connected layers and dot interactions have
// kernels instead.
void run_row(const KernelTable& kernels, const Layer& layer, const InputRows& inputs, float* out);

}  // namespace terabag
