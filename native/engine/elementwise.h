#pragma once
#include <cstdint>
#include <vector>

#include "engine/layer.h"
#include "kernels/kernel_table.h"

namespace terabag {

// The rows of a layer's inputs that make one row of it: an item's vectors, or those of one position of its sequences.
class InputRows {
 public:
  // values: of the net, by number.
  InputRows(const Layer& layer, const std::vector<Value>& values, uint64_t item, uint64_t position = 0)
      : layer_(layer), values_(values), item_(item), position_(position) {}
  size_t count() const { return layer_.inputs.size(); }
  const float* operator[](size_t input) const { return value(input).row(item_, position_); }
  uint32_t dim(size_t input) const { return value(input).dim; }

 private:
  const Value& value(size_t input) const { return values_[layer_.inputs[input]]; }

  const Layer& layer_;
  const std::vector<Value>& values_;
  const uint64_t item_;
  const uint64_t position_;
};

// Layers that pass over a row a few times: one row of one of them, of layer.dim floats, into out, which overlaps no input. They are a small
// part of any net's time, so that one portable version serves every instruction set, with the same bits on all, but for the functions of
// native/kernels/activation.h. NaN and infinity propagate. prepare_layer saw the layer; fully connected layers, dot interactions and
// layers that read whole sequences are elsewhere.
void run_row(const KernelTable& kernels, const Layer& layer, const InputRows& inputs, float* out);

// As torch.nn.LayerNorm over the last dim, without weights: mean and biased variance of the row in float64, the rest in float32. out may be
// x.
void normalize(float epsilon, uint32_t dim, const float* x, float* out);

}  // namespace terabag
