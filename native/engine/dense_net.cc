#include "engine/dense_net.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <thread>

#include "engine/elementwise.h"
#include "engine/thread_pool.h"

namespace terabag {
namespace {

std::atomic<uint64_t> numbers{0};

// Rows that go through all layers of a stage before the next ones do, so that activations stay in cache: 10 tiles of the avx512 kernel,
// enough to make the reading of the weights a small part. Blocks for several threads are smaller, down to three tiles.
constexpr uint64_t kBlockRows = 112;
constexpr uint64_t kMinBlockRows = 28;

// Floats from row to row of a layer's buffer: an odd number of 64-byte cache lines, so that the rows of a tile spread over the L1 cache.
uint64_t row_stride(uint32_t dim) { return ((static_cast<uint64_t>(dim) + 15) / 16 | 1) * 16; }

// Rows 4096 bytes apart fall into the same few lines of the L1 cache.
bool collides(const Value& value) { return value.per_item && value.stride * sizeof(float) % 4096 == 0; }

}  // namespace

DenseNet::DenseNet(const KernelTable& kernels, Precision precision, std::vector<uint32_t> input_dims, uint32_t num_dense,
                   std::vector<Layer> layers, uint32_t output, std::string* error)
    : number_(++numbers),
      kernels_(kernels),
      precision_(precision),
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
    *error = check_layer(layer, dims, stages);
    if (error->empty() && layer.op == Op::kFc && precision_ == Precision::kInt8 && dims[layer.inputs[0]] > kMaxInt8Inputs) {
      *error =
          "has more inputs than int8 can add up: " + std::to_string(dims[layer.inputs[0]]) + ", at most " + std::to_string(kMaxInt8Inputs);
    }
    if (!error->empty()) {
      *error = "layer " + std::to_string(dims.size() - input_dims_.size()) + " " + *error;
      return;
    }
    prepare_layer(layer);
    if (layer.op == Op::kFc) pack_layer(layer, dims[layer.inputs[0]], kernels_.panel_width, precision_);
    dims.push_back(layer.dim);
    stages.push_back(layer.stage);
  }
  kept_.assign(layers_.size(), false);
  for (const Layer& layer : layers_) last_stage_ = std::max(last_stage_, layer.stage);
  kept_[output_ - input_dims_.size()] = stages[output_] != last_stage_;
  for (const Layer& layer : layers_) {
    for (uint32_t input : layer.inputs) {
      if (input >= input_dims_.size() && stages[input] != layer.stage) kept_[input - input_dims_.size()] = true;
    }
  }
}

uint64_t DenseNet::input_length(uint32_t from, uint32_t to, uint32_t items, const uint8_t* per_item) const {
  uint64_t length = 0;
  for (uint32_t input = from; input < to; ++input) length += static_cast<uint64_t>(input_dims_[input]) * (per_item[input] ? items : 1);
  return length;
}

bool DenseNet::staged(const Workspace& workspace, uint32_t stage, uint32_t items, const uint8_t* per_item) const {
  bool first = true;
  uint32_t before = 0;  // the last stage before this one that has a layer
  for (const Layer& layer : layers_) {
    if (layer.stage >= stage) continue;
    first = false;
    before = std::max(before, layer.stage);
  }
  if (first) return true;
  if (workspace.net != number_ || workspace.items != items || workspace.stage < before) return false;
  // Stage 0 read no bags.
  const uint32_t read = before == 0 ? num_dense_ : num_inputs();
  for (uint32_t input = 0; input < read; ++input) {
    if ((workspace.per_item[input] != 0) != (per_item[input] != 0)) return false;
  }
  return true;
}

uint32_t DenseNet::shared_inputs(const Workspace& workspace, const Layer& layer) const {
  // Narrow operands are rounded by the row, so that their sums have no part that rows share.
  if (layer.op != Op::kFc || precision_ != Precision::kFp32 || layer.inputs[0] < num_inputs()) return 0;
  const Layer& concat = layers_[layer.inputs[0] - num_inputs()];
  if (concat.op != Op::kConcat) return 0;
  uint32_t count = 0;
  for (uint32_t input : concat.inputs) {
    if (workspace.values[input].per_item) return count;
    count += workspace.values[input].dim;
  }
  return 0;  // All of it is shared, and so is the layer.
}

void DenseNet::sum_shared_inputs(Workspace& workspace, size_t l) const {
  const Layer& layer = layers_[l];
  SharedInputs& shared = workspace.shared[l];
  if (shared.count == 0) return;
  const Layer& concat = layers_[layer.inputs[0] - num_inputs()];
  float* x = workspace.lanes[0].padded.data();
  for (size_t i = 0, at = 0; at < shared.count; ++i) {
    const Value& value = workspace.values[concat.inputs[i]];
    std::copy_n(value.row(0), value.dim, x + at);
    at += value.dim;
  }
  kernels_.fully_connected(
      {x, 0, 1, shared.count, concat.dim, layer.weight().data(), layer.bias().data(), layer.dim, false, shared.sums.data(), 0});
}

void DenseNet::prepare(Workspace& workspace, uint32_t stage, uint32_t items, const uint8_t* per_item, unsigned num_threads) const {
  const uint32_t inputs = num_inputs();
  const uint64_t lanes = std::clamp<uint64_t>(items / kMinBlockRows, 1, num_threads);
  workspace.net = 0;  // Until the run that this is for.
  workspace.items = items;
  workspace.block_rows = std::min(kBlockRows, std::max((items + lanes - 1) / lanes, kMinBlockRows));
  workspace.per_item.assign(per_item, per_item + inputs);
  workspace.values.resize(inputs + layers_.size());
  workspace.kept.resize(std::max(workspace.kept.size(), layers_.size()));
  workspace.shared.resize(layers_.size());
  workspace.lanes.resize(lanes);
  for (uint32_t input = 0; input < inputs; ++input) {
    workspace.values[input] = {nullptr, input_dims_[input], input_dims_[input], per_item[input] != 0};
  }
  const uint64_t block_rows = std::min<uint64_t>(workspace.block_rows, items);
  uint64_t most_vectors = 0, stacked = 0, padded = 0, most_units = 0;
  const auto grow = [](AlignedFloats& buffer, uint64_t length) {
    if (buffer.size() < length) buffer.resize(length);
  };
  for (Lane& lane : workspace.lanes) lane.buffers.resize(std::max(lane.buffers.size(), layers_.size()));
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    const uint64_t stride = row_stride(layer.dim);
    bool many = false;
    for (uint32_t input : layer.inputs) many = many || workspace.values[input].per_item;
    workspace.values[inputs + l] = {nullptr, layer.dim, stride, many};
    if (!many || kept_[l]) {
      if (layer.stage == stage) grow(workspace.kept[l], (many ? items : 1) * stride);
      workspace.values[inputs + l].data = workspace.kept[l].data();
    } else if (layer.stage == stage) {
      for (Lane& lane : workspace.lanes) grow(lane.buffers[l], block_rows * stride);
    }
    if (layer.stage != stage) continue;
    const Value& first = workspace.values[layer.inputs[0]];
    if (layer.op == Op::kFc && collides(first)) padded = std::max(padded, block_rows * row_stride(first.dim));
    SharedInputs& shared = workspace.shared[l];
    shared.count = shared_inputs(workspace, layer);
    if (shared.count > 0) {
      padded = std::max<uint64_t>(padded, shared.count);
      // What lies between the outputs and the end of the last panel is read, and of no effect.
      grow(shared.sums, layer.bias().size());
    }
    if (layer.op == Op::kFc && precision_ != Precision::kFp32) {
      most_units = std::max<uint64_t>(most_units, row_stride(units_of(precision_, first.dim)));
    }
    if (layer.op == Op::kDotInteraction) {
      most_vectors = std::max<uint64_t>(most_vectors, layer.inputs.size());
      stacked = std::max(stacked, interaction_scratch(static_cast<uint32_t>(layer.inputs.size()), first.dim));
    }
  }
  for (Lane& lane : workspace.lanes) {
    grow(lane.padded, padded);
    grow(lane.stacked, stacked);
    if (lane.narrow.size() < block_rows * most_units) lane.narrow.resize(block_rows * most_units);
    if (lane.scales.size() < block_rows) {
      lane.scales.resize(block_rows);
      lane.zero_points.resize(block_rows);
    }
    lane.values.resize(workspace.values.size());
    if (lane.vectors.size() < most_vectors) {
      lane.vectors.resize(most_vectors);
      lane.strides.resize(most_vectors);
    }
  }
}

void DenseNet::run(Workspace& workspace, uint32_t stage, const float* dense, const float* pooled, float* scores, LayerTimes* times) const {
  workspace.timed = times != nullptr;
  if (times == nullptr) return run_stage(workspace, stage, dense, pooled, scores);
  for (Lane& lane : workspace.lanes) lane.times = {};
  workspace.reads_cpu = times->reads_cpu;
  const uint64_t cpu_before = times->reads_cpu ? thread_cpu_ns() : 0;
  run_stage(workspace, stage, dense, pooled, scores);
  if (times->reads_cpu) times->cpu_ns = thread_cpu_ns() - cpu_before;
  for (const Lane& lane : workspace.lanes) {
    times->cpu_ns += lane.times.cpu_ns;
    times->interaction_ns += lane.times.interaction_ns;
    times->layers_ns += lane.times.layers_ns;
  }
}

void DenseNet::run_stage(Workspace& workspace, uint32_t stage, const float* dense, const float* pooled, float* scores) const {
  const uint32_t inputs = num_inputs();
  workspace.net = number_;
  workspace.stage = stage;
  for (uint32_t input = 0; input < inputs; ++input) {
    Value& value = workspace.values[input];
    const float*& block = input < num_dense_ ? dense : pooled;
    value.data = block;
    if (block != nullptr) block += (value.per_item ? workspace.items : 1) * value.dim;
  }
  // What all items share is computed once, first: it reads nothing that is per item.
  Lane& first = workspace.lanes[0];
  std::copy(workspace.values.begin(), workspace.values.end(), first.values.begin());
  first.shared = workspace.shared.data();
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].stage != stage || workspace.values[inputs + l].per_item) continue;
    const auto rows = workspace.timed ? &DenseNet::run_timed_rows : &DenseNet::run_rows;
    (this->*rows)(first, layers_[l], 0, 1, workspace.kept[l].data());
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].stage == stage) sum_shared_inputs(workspace, l);
  }
  const std::thread::id caller = std::this_thread::get_id();
  const auto run_one = [&](uint32_t l) {
    Lane& lane = workspace.lanes[l];
    const bool helps = workspace.timed && workspace.reads_cpu && std::this_thread::get_id() != caller;
    const uint64_t cpu_before = helps ? thread_cpu_ns() : 0;
    run_lane(workspace, lane, stage, l, scores);
    if (helps) lane.times.cpu_ns = thread_cpu_ns() - cpu_before;
  };
  ThreadPool::shared().parallel(static_cast<uint32_t>(workspace.lanes.size()), std::cref(run_one));  // A reference: nothing is allocated.
}

void DenseNet::run_lane(const Workspace& workspace, Lane& lane, uint32_t stage, uint64_t first_block, float* scores) const {
  const uint32_t inputs = num_inputs();
  const uint64_t items = workspace.items, rows = workspace.block_rows;
  std::copy(workspace.values.begin(), workspace.values.end(), lane.values.begin());
  lane.shared = workspace.shared.data();
  for (uint64_t from = first_block * rows; from < items; from += workspace.lanes.size() * rows) {
    const uint64_t to = std::min(from + rows, items);
    for (size_t l = 0; l < layers_.size(); ++l) {
      Value& value = lane.values[inputs + l];
      if (layers_[l].stage != stage || !value.per_item) continue;
      float* out = kept_[l] ? const_cast<float*>(value.row(from)) : lane.buffers[l].data();
      if (!kept_[l]) {
        value.data = out;
        value.first_item = from;
      }
      workspace.timed ? run_timed_rows(lane, layers_[l], from, to, out) : run_rows(lane, layers_[l], from, to, out);
    }
    if (scores == nullptr) continue;
    const Value& result = lane.values[output_];
    for (uint64_t item = from; item < to; ++item) std::copy_n(result.row(item), result.dim, scores + item * result.dim);
  }
}

void DenseNet::run_fully_connected(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  if (precision_ != Precision::kFp32) {
    run_narrow(lane, layer, from, to, out);
  } else {
    run_fp32(lane, layer, from, to, out);
  }
  // Sigmoids of fully connected layers stay what they were before there were kernels of them: scores of served models keep their bits.
  if (layer.activation == Activation::kSigmoid) {
    for (uint64_t row = from; row < to; ++row, out += row_stride(layer.dim)) {
      for (uint32_t d = 0; d < layer.dim; ++d) out[d] = 1.0f / (1.0f + std::exp(-out[d]));
    }
    return;
  }
  // The matrix kernels apply relu.
  Function function{};
  if (function_of(layer.activation, &function)) kernels_.activate({function, out, to - from, layer.dim, row_stride(layer.dim)});
}

void DenseNet::run_narrow(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  const Value& x = lane.values[layer.inputs[0]];
  const uint32_t units = units_of(precision_, x.dim);
  const uint64_t stride = row_stride(units);
  for (uint64_t row = from; row < to; ++row) {
    uint32_t* narrow = lane.narrow.data() + (row - from) * stride;
    if (precision_ == Precision::kBf16) {
      round_to_bf16(x.row(row), x.dim, narrow);
      continue;
    }
    const auto [scale, zero_point] = quantize_row(x.row(row), x.dim, narrow);
    lane.scales[row - from] = scale;
    lane.zero_points[row - from] = zero_point;
  }
  const NarrowJob job{lane.narrow.data(),
                      stride,
                      static_cast<uint32_t>(to - from),
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

void DenseNet::run_fp32(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  const Value& x = lane.values[layer.inputs[0]];
  const float* rows = x.row(from);
  uint64_t stride = x.stride;
  if (to - from > 1 && collides(x)) {
    stride = row_stride(x.dim);
    for (uint64_t row = from; row < to; ++row) std::copy_n(x.row(row), x.dim, lane.padded.data() + (row - from) * stride);
    rows = lane.padded.data();
  }
  const SharedInputs& shared = lane.shared[&layer - layers_.data()];
  const uint32_t skip = x.per_item ? shared.count : 0;
  kernels_.fully_connected({rows + skip, stride, static_cast<uint32_t>(to - from), x.dim - skip, x.dim,
                            layer.weight().data() + static_cast<uint64_t>(skip) * kernels_.panel_width,
                            skip > 0 ? shared.sums.data() : layer.bias().data(), layer.dim, layer.activation == Activation::kRelu, out,
                            row_stride(layer.dim)});
}

void DenseNet::run_timed_rows(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  const uint64_t started = steady_ns();
  run_rows(lane, layer, from, to, out);
  const uint64_t took = steady_ns() - started;
  lane.times.layers_ns += took;
  if (layer.op == Op::kDotInteraction) lane.times.interaction_ns += took;
}

void DenseNet::run_interaction(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  for (size_t i = 0; i < layer.inputs.size(); ++i) {
    const Value& value = lane.values[layer.inputs[i]];
    lane.vectors[i] = value.row(from);
    lane.strides[i] = value.per_item ? value.stride : 0;
  }
  kernels_.dot_interaction({lane.vectors.data(), lane.strides.data(), static_cast<uint32_t>(layer.inputs.size()),
                            lane.values[layer.inputs[0]].dim, layer.diagonal, static_cast<uint32_t>(to - from), out, row_stride(layer.dim),
                            lane.stacked.data()});
}

void DenseNet::run_rows(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const {
  if (layer.op == Op::kFc) return run_fully_connected(lane, layer, from, to, out);
  if (layer.op == Op::kDotInteraction) return run_interaction(lane, layer, from, to, out);
  for (uint64_t row = from; row < to; ++row, out += row_stride(layer.dim)) run_row(kernels_, layer, {layer, lane.values, row}, out);
}

}  // namespace terabag
