#include <algorithm>
#include <cmath>

#include "engine/attention.h"
#include "engine/dense_net.h"
#include "engine/elementwise.h"
#include "engine/recurrent.h"
#include "engine/sequence_layers.h"

// The rows of one layer, of one block.
namespace terabag {

void DenseNet::run_fully_connected(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  const uint64_t rows = lane.values[layer.inputs[0]].rows(from, to);
  if (rows == 0) return;  // Of sequences that are all empty; kernels want a row.
  if (precision_ != Precision::kFp32) {
    run_narrow(lane, layer, from, rows, out);
  } else {
    run_fp32(lane, layer, from, rows, out);
  }
  // Sigmoids of vectors stay what they were before there were kernels of them: scores of served models keep their bits.
  if (layer.activation == Activation::kSigmoid && layer.positions == 0) {
    for (uint64_t row = 0; row < rows; ++row, out += row_stride(layer.dim)) {
      for (uint32_t d = 0; d < layer.dim; ++d) out[d] = 1.0f / (1.0f + std::exp(-out[d]));
    }
    return;
  }
  // The matrix kernels apply relu.
  Function function{};
  if (function_of(layer.activation, &function)) kernels_.activate({function, out, rows, layer.dim, row_stride(layer.dim)});
}

void DenseNet::run_narrow(Lane& lane, const Layer& layer, uint64_t from, uint64_t rows, float* out) const {
  const Value& value = lane.values[layer.inputs[0]];
  const float* x = value.row(from);
  const uint32_t units = units_of(precision_, value.dim);
  const uint64_t stride = row_stride(units);
  for (uint64_t row = 0; row < rows; ++row, x += value.stride) {
    uint32_t* narrow = lane.narrow.data() + row * stride;
    if (precision_ == Precision::kBf16) {
      round_to_bf16(x, value.dim, narrow);
      continue;
    }
    const auto [scale, zero_point] = quantize_row(x, value.dim, narrow);
    lane.scales[row] = scale;
    lane.zero_points[row] = zero_point;
  }
  const NarrowJob job{lane.narrow.data(),
                      stride,
                      static_cast<uint32_t>(rows),
                      units,
                      layer.narrow.packed.data(),
                      layer.bias().data(),
                      layer.dim,
                      layer.activation == Activation::kRelu,
                      out,
                      row_stride(layer.dim),
                      lane.scales.data(),
                      lane.zero_points.data(),
                      layer.narrow.scales.data(),
                      layer.narrow.sums.data()};
  precision_ == Precision::kBf16 ? kernels_.fully_connected_bf16(job) : kernels_.fully_connected_int8(job);
}

void DenseNet::run_fp32(Lane& lane, const Layer& layer, uint64_t from, uint64_t rows, float* out) const {
  const Value& x = lane.values[layer.inputs[0]];
  const float* given = x.row(from);
  uint64_t stride = x.stride;
  if (rows > 1 && collides(x)) {
    stride = row_stride(x.dim);
    for (uint64_t row = 0; row < rows; ++row) std::copy_n(given + row * x.stride, x.dim, lane.padded.data() + row * stride);
    given = lane.padded.data();
  }
  const SharedInputs& shared = lane.shared[&layer - layers_.data()];
  const uint32_t skip = x.per_item ? shared.count : 0;
  const float* bias = skip > 0 ? shared.sums.data() : layer.bias().data();
  const uint64_t width = layer.bias().size();
  uint64_t bias_stride = 0;
  if (skip > 0 && shared.group_of != nullptr) {
    const uint32_t* group_of = shared.group_of + from;
    if (group_of[0] == group_of[rows - 1]) {
      bias += group_of[0] * width;
    } else {
      for (uint64_t row = 0; row < rows; ++row) std::copy_n(bias + group_of[row] * width, width, lane.sums.data() + row * width);
      bias = lane.sums.data();
      bias_stride = width;
    }
  }
  kernels_.fully_connected({given + skip, stride, static_cast<uint32_t>(rows), x.dim - skip, x.dim,
                            layer.weight().data() + static_cast<uint64_t>(skip) * kernels_.panel_width, bias, layer.dim,
                            layer.activation == Activation::kRelu, out, row_stride(layer.dim), bias_stride});
}

void DenseNet::run_timed_rows(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  const uint64_t started = steady_ns();
  run_rows(lane, layer, from, to, out);
  const uint64_t took = steady_ns() - started;
  lane.times.layers_ns += took;
  if (layer.op == Op::kDotInteraction) lane.times.interaction_ns += took;
}

void DenseNet::run_interaction(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  const uint32_t* group_of = nullptr;
  for (const uint32_t input : layer.inputs) {
    if (lane.values[input].group_of != nullptr) group_of = lane.values[input].group_of;
  }
  // The kernel steps from item to item, or stays: on the items of one group after the other.
  for (uint64_t first = from; first < to;) {
    uint64_t end = group_of == nullptr ? to : first + 1;
    while (end < to && group_of[end] == group_of[first]) ++end;
    for (size_t i = 0; i < layer.inputs.size(); ++i) {
      const Value& value = lane.values[layer.inputs[i]];
      lane.vectors[i] = value.row(first);
      lane.strides[i] = value.per_item ? value.stride : 0;
    }
    kernels_.dot_interaction({lane.vectors.data(), lane.strides.data(), static_cast<uint32_t>(layer.inputs.size()),
                              lane.values[layer.inputs[0]].dim, layer.diagonal, static_cast<uint32_t>(end - first), out,
                              row_stride(layer.dim), lane.stacked.data()});
    out += (end - first) * row_stride(layer.dim);
    first = end;
  }
}

void DenseNet::run_rows(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  const Value& value = lane.values[num_inputs() + (&layer - layers_.data())];
  const SequenceJob job{kernels_, layer, lane.values, from, to, out, value.stride, lane.stacked.data(), lane.order.data()};
  switch (layer.op) {
    case Op::kFc: return run_fully_connected(lane, layer, from, to, out);
    case Op::kDotInteraction: return run_interaction(lane, layer, from, to, out);
    case Op::kQueryKey: return run_query_key(job);
    case Op::kSequenceSoftmax: return run_sequence_softmax(job);
    case Op::kWeightedPool: return run_weighted_pool(job);
    case Op::kAttention: return run_attention(job);
    case Op::kHstuAttention: return run_hstu_attention(job);
    case Op::kGru:
    case Op::kAugru: return run_gru(job);
    default: break;
  }
  const bool row_by_row = is_row_by_row(layer.op);
  for (uint64_t item = from; item < to; ++item) {
    const uint64_t rows = value.rows(item, item + 1);
    if (!row_by_row) {
      run_sequence(layer, lane.values, item, out, value.stride);
      out += rows * value.stride;
      continue;
    }
    for (uint64_t position = 0; position < rows; ++position, out += value.stride)
      run_row(kernels_, layer, {layer, lane.values, item, position}, out);
  }
}

}  // namespace terabag
