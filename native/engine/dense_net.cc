#include "engine/dense_net.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <thread>

#include "engine/attention.h"
#include "engine/elementwise.h"
#include "engine/recurrent.h"
#include "engine/sequence_layers.h"
#include "engine/thread_pool.h"

namespace terabag {
namespace {

std::atomic<uint64_t> numbers{0};

// Rows that go through all layers of a stage before the next ones do, so that activations stay in cache: 10 tiles of the avx512 kernel,
// enough to make the reading of the weights a small part. Blocks for several threads are smaller, down to three tiles.
constexpr uint64_t kBlockRows = 112;
constexpr uint64_t kMinBlockRows = 28;

// Positions of sequences that go through all layers of a stage together: as many as make the reading of weights a small part. But at least
// a tile's rows of items, which the layers behind the sequences take.
constexpr uint64_t kBlockPositions = 512;
constexpr uint64_t kMinBlockSequences = 12;

// Rows 4096 bytes apart fall into the same few lines of the L1 cache.
bool bad_stride(uint64_t stride) { return stride * sizeof(float) % 4096 == 0; }
bool collides(const Value& value) { return value.per_item && bad_stride(value.stride); }

// Rows of the largest of a run's blocks.
uint64_t most_rows(const Value& value, uint64_t items, uint64_t block) {
  if (!value.per_item) return value.rows(0, 1);
  if (value.positions == 0) return std::min(block, items);
  uint64_t most = 0;
  for (uint64_t from = 0; from < items; from += block) most = std::max(most, value.rows(from, std::min(from + block, items)));
  return most;
}

uint64_t longest(const Value& sequence, uint64_t items) {
  uint64_t most = 0;
  for (uint64_t item = 0; item < (sequence.lengths.per_item ? items : 1); ++item) most = std::max(most, sequence.lengths.length(item));
  return most;
}

// Weights of a sound layer as its arithmetic wants them.
void pack(Layer& layer, const Shape& input, uint32_t panel_width, Precision precision) {
  switch (layer.op) {
    case Op::kFc: return pack_layer(layer, input.dim, panel_width, precision);
    case Op::kGru:
    case Op::kAugru: return pack_layer(layer, layer.dim, panel_width, Precision::kFp32);
    case Op::kQueryKey: return fold_features(layer, input.dim, panel_width);
    case Op::kAttention:
    case Op::kHstuAttention: return prepare_attention(layer, input.positions, panel_width);
    default: return;
  }
}

// Floats that a layer over sequences works in.
uint64_t scratch_of(const KernelTable& kernels, const Layer& layer, const Value& input, uint64_t items, uint64_t block) {
  switch (layer.op) {
    case Op::kQueryKey: return query_key_scratch(kernels, layer, input.dim, block);
    case Op::kAttention:
    case Op::kHstuAttention: return attention_scratch(kernels, layer, input.dim, longest(input, items));
    case Op::kSequenceSoftmax: return longest(input, items);
    case Op::kGru:
    case Op::kAugru: return gru_scratch(layer, block);
    default: return 0;
  }
}

}  // namespace

DenseNet::DenseNet(const KernelTable& kernels, Precision precision, std::vector<Input> inputs, uint32_t num_dense,
                   std::vector<Layer> layers, uint32_t output, std::string* error)
    : number_(++numbers),
      kernels_(kernels),
      precision_(precision),
      inputs_(std::move(inputs)),
      num_dense_(num_dense),
      layers_(std::move(layers)),
      output_(output) {
  if (num_dense_ > num_inputs() || output_ < num_inputs() || output_ >= num_inputs() + layers_.size()) {
    *error = "number of dense inputs or output is out of range";
    return;
  }
  std::vector<Shape> values;
  for (uint32_t input = 0; input < num_inputs(); ++input) {
    const auto [dim, positions] = inputs_[input];
    values.push_back({dim, input < num_dense_ ? 0u : 1u, positions, input});
    if (input < num_dense_ && positions > 0) *error = "a dense input has to be a vector";
  }
  for (Layer& layer : layers_) {
    if (error->empty()) *error = check_layer(layer, values);
    if (error->empty() && layer.op == Op::kFc && precision_ == Precision::kInt8 && values[layer.inputs[0]].dim > kMaxInt8Inputs) {
      *error = "has more inputs than int8 can add up: " + std::to_string(values[layer.inputs[0]].dim) + ", at most " +
               std::to_string(kMaxInt8Inputs);
    }
    if (!error->empty()) {
      *error = "layer " + std::to_string(values.size() - num_inputs()) + " " + *error;
      return;
    }
    prepare_layer(layer);
    const Shape& first = values[layer.inputs[0]];
    pack(layer, first, kernels_.panel_width, precision_);
    for (uint32_t input : layer.inputs) {
      if (values[input].positions > 0 && values[input].input != first.input) together_.emplace_back(first.input, values[input].input);
    }
    values.push_back(shape_of(layer, values));
  }
  if (values[output_].positions > 0) {
    *error = "output has to be a vector";
    return;
  }
  kept_.assign(layers_.size(), false);
  for (const Layer& layer : layers_) last_stage_ = std::max(last_stage_, layer.stage);
  kept_[output_ - num_inputs()] = values[output_].stage != last_stage_;
  for (const Layer& layer : layers_) {
    for (uint32_t input : layer.inputs) {
      if (input >= num_inputs() && values[input].stage != layer.stage) kept_[input - num_inputs()] = true;
    }
  }
}

uint64_t DenseNet::input_length(uint32_t from, uint32_t to, uint32_t items, const uint8_t* per_item) const {
  uint64_t length = 0;
  for (uint32_t input = from; input < to; ++input) length += inputs_[input].floats() * (per_item[input] ? items : 1);
  return length;
}

uint64_t DenseNet::num_lengths(uint32_t items, const uint8_t* per_item) const {
  uint64_t length = 0;
  for (uint32_t input = 0; input < num_inputs(); ++input) {
    if (inputs_[input].positions > 0) length += per_item[input] ? items : 1;
  }
  return length;
}

uint32_t DenseNet::stage_before(uint32_t stage) const {
  uint32_t before = stage;
  for (const Layer& layer : layers_) {
    if (layer.stage < stage && (before == stage || layer.stage > before)) before = layer.stage;
  }
  return before;
}

bool DenseNet::staged(const Workspace& workspace, uint32_t stage, uint32_t items, const uint8_t* per_item,
                      std::span<const uint32_t> lengths) const {
  const uint32_t before = stage_before(stage);
  if (before == stage) return true;
  if (workspace.net != number_ || workspace.items != items || workspace.stage < before) return false;
  // Stage 0 read no bags.
  const uint32_t read = before == 0 ? num_dense_ : num_inputs();
  for (uint32_t input = 0; input < read; ++input) {
    if ((workspace.per_item[input] != 0) != (per_item[input] != 0)) return false;
  }
  return before == 0 || std::equal(workspace.lengths.begin(), workspace.lengths.end(), lengths.begin(), lengths.end());
}

std::string DenseNet::set_lengths(Workspace& workspace, uint32_t stage, uint32_t items, const uint8_t* per_item,
                                  std::span<const uint32_t> lengths) const {
  const uint32_t before = stage_before(stage);
  if (stage == 0 || (before != stage && before > 0)) return "";  // None are read, or those of the stage before.
  workspace.net = 0;                                             // What was there belongs to other lengths.
  workspace.lengths.assign(lengths.begin(), lengths.end());
  workspace.starts.resize(num_inputs());
  const uint32_t* given = workspace.lengths.data();
  for (uint32_t input = 0; input < num_inputs(); ++input) {
    std::vector<uint64_t>& starts = workspace.starts[input];
    starts.clear();
    if (inputs_[input].positions == 0) continue;
    starts.push_back(0);
    for (uint32_t row = 0; row < (per_item[input] ? items : 1); ++row, ++given) {
      if (*given > inputs_[input].positions) {
        return "lengths have a sequence of more positions than input " + std::to_string(input) + " has: row " + std::to_string(row) + ", " +
               std::to_string(*given) + ", at most " + std::to_string(inputs_[input].positions);
      }
      starts.push_back(starts.back() + *given);
    }
  }
  for (const auto& [a, b] : together_) {
    const Lengths of_a{workspace.starts[a].data(), per_item[a] != 0}, of_b{workspace.starts[b].data(), per_item[b] != 0};
    for (uint32_t item = 0; item < items; ++item) {
      if (of_a.length(item) == of_b.length(item)) continue;
      return "lengths of inputs " + std::to_string(a) + " and " + std::to_string(b) + " have to be equal: item " + std::to_string(item) +
             ", " + std::to_string(of_a.length(item)) + " and " + std::to_string(of_b.length(item));
    }
  }
  return "";
}

void DenseNet::choose_packed(Workspace& workspace, uint32_t stage) const {
  workspace.packs.assign(num_inputs(), 0);
  for (const Layer& layer : layers_) {
    if (layer.stage != stage) continue;
    for (uint32_t input : layer.inputs) {
      if (input >= num_inputs() || inputs_[input].positions == 0) continue;
      const bool gaps = workspace.per_item[input] && workspace.starts[input].back() != uint64_t{workspace.items} * inputs_[input].positions;
      workspace.packs[input] = gaps || bad_stride(inputs_[input].dim);
    }
  }
}

void DenseNet::pack_sequences(const Workspace& workspace, Lane& lane, std::vector<Value>& values, bool per_item, uint64_t from,
                              uint64_t to) const {
  for (uint32_t input = 0; input < num_inputs(); ++input) {
    const Value& given = workspace.values[input];
    if (!workspace.packs[input] || given.per_item != per_item) continue;
    Value& packed = values[input];
    packed.stride = row_stride(given.dim);
    packed.first_item = from;
    float* row = lane.packed[input].data();
    packed.data = row;
    for (uint64_t item = from; item < to; ++item) {
      const float* x = given.data + item * inputs_[input].floats();
      for (uint64_t p = given.lengths.length(item); p > 0; --p, x += given.dim, row += packed.stride) std::copy_n(x, given.dim, row);
    }
  }
}

uint32_t DenseNet::shared_inputs(const Workspace& workspace, const Layer& layer) const {
  // Narrow operands are rounded by the row, so that their sums have no part that rows share.
  if (layer.op != Op::kFc || layer.positions > 0 || precision_ != Precision::kFp32 || layer.inputs[0] < num_inputs()) return 0;
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

DenseNet::BlockLimits DenseNet::block_limits(const Workspace& workspace, uint32_t stage) const {
  BlockLimits limits{kMinBlockRows, kBlockRows};
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Value& value = workspace.values[num_inputs() + l];
    if (layers_[l].stage != stage || !value.per_item || value.positions == 0) continue;
    const uint64_t length = std::max<uint64_t>(1, value.rows(0, workspace.items) / workspace.items);
    limits.most = std::min(limits.most, std::max(kBlockPositions / length, kMinBlockSequences));
    limits.least = kMinBlockSequences;
  }
  return limits;
}

void DenseNet::prepare(Workspace& workspace, uint32_t stage, uint32_t items, const uint8_t* per_item, unsigned num_threads) const {
  const uint32_t inputs = num_inputs();
  workspace.net = 0;  // Until the run that this is for.
  workspace.items = items;
  workspace.per_item.assign(per_item, per_item + inputs);
  workspace.values.resize(inputs + layers_.size());
  workspace.kept.resize(std::max(workspace.kept.size(), layers_.size()));
  workspace.shared.resize(layers_.size());
  for (uint32_t input = 0; input < inputs; ++input) {
    const auto [dim, positions] = inputs_[input];
    Value& value = workspace.values[input] = {nullptr, dim, dim, per_item[input] != 0, positions, {}};
    if (positions > 0 && stage > 0) value.lengths = {workspace.starts[input].data(), value.per_item};
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    bool many = false;
    for (uint32_t input : layer.inputs) many = many || workspace.values[input].per_item;
    Value& value = workspace.values[inputs + l] = {nullptr, layer.dim, row_stride(layer.dim), many, layer.positions, {}};
    value.lengths = workspace.values[layer.inputs[0]].lengths;
    if (layer.op == Op::kAppend) ++value.lengths.appended;
  }
  choose_packed(workspace, stage);
  const BlockLimits limits = block_limits(workspace, stage);
  const uint64_t lanes = std::clamp<uint64_t>(items / limits.least, 1, num_threads);
  workspace.block_rows = std::min(limits.most, std::max((items + lanes - 1) / lanes, limits.least));
  workspace.lanes.resize(lanes);
  const auto rows_of = [&](const Value& value) { return most_rows(value, items, workspace.block_rows); };
  uint64_t most_vectors = 0, stacked = 0, padded = 0, most_units = 0, narrow_rows = 0;
  const auto grow = [](auto& buffer, uint64_t length) {
    if (buffer.size() < length) buffer.resize(length);
  };
  for (Lane& lane : workspace.lanes) {
    grow(lane.buffers, layers_.size());
    grow(lane.packed, inputs);
    for (uint32_t input = 0; input < inputs; ++input) {
      const Value& value = workspace.values[input];
      if (workspace.packs[input]) grow(lane.packed[input], rows_of(value) * row_stride(value.dim));
    }
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    Value& value = workspace.values[inputs + l];
    const bool kept = !value.per_item || kept_[l];
    if (kept && layer.stage == stage) grow(workspace.kept[l], value.rows(0, value.per_item ? items : 1) * value.stride);
    if (kept) value.data = workspace.kept[l].data();
    if (layer.stage != stage) continue;
    const Value& first = workspace.values[layer.inputs[0]];
    const uint64_t rows = rows_of(first);
    if (!kept) {
      const uint64_t length = rows_of(value) * value.stride;
      for (Lane& lane : workspace.lanes) grow(lane.buffers[l], length);
    }
    if (layer.op == Op::kFc && collides(first)) padded = std::max(padded, rows * row_stride(first.dim));
    SharedInputs& shared = workspace.shared[l];
    shared.count = shared_inputs(workspace, layer);
    if (shared.count > 0) {
      padded = std::max<uint64_t>(padded, shared.count);
      // What lies between the outputs and the end of the last panel is read, and of no effect.
      grow(shared.sums, layer.bias().size());
    }
    if (layer.op == Op::kFc && precision_ != Precision::kFp32) {
      narrow_rows = std::max(narrow_rows, rows);
      most_units = std::max<uint64_t>(most_units, row_stride(units_of(precision_, first.dim)));
    }
    const uint64_t block = std::min<uint64_t>(workspace.block_rows, items);
    stacked = std::max(stacked, scratch_of(kernels_, layer, first, items, block));
    if (layer.op == Op::kDotInteraction) {
      most_vectors = std::max<uint64_t>(most_vectors, layer.inputs.size());
      stacked = std::max(stacked, interaction_scratch(static_cast<uint32_t>(layer.inputs.size()), first.dim));
    }
  }
  for (Lane& lane : workspace.lanes) {
    grow(lane.padded, padded);
    grow(lane.stacked, stacked);
    grow(lane.narrow, narrow_rows * most_units);
    grow(lane.scales, narrow_rows);
    grow(lane.zero_points, narrow_rows);
    lane.values.resize(workspace.values.size());
    grow(lane.order, std::min<uint64_t>(workspace.block_rows, items));
    grow(lane.vectors, most_vectors);
    grow(lane.strides, most_vectors);
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
    if (block != nullptr) block += (value.per_item ? workspace.items : 1) * inputs_[input].floats();
  }
  // What all items share is computed once, first: it reads nothing that is per item.
  Lane& first = workspace.lanes[0];
  pack_sequences(workspace, first, workspace.values, false, 0, 1);
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
    pack_sequences(workspace, lane, lane.values, true, from, to);
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
  kernels_.fully_connected({given + skip, stride, static_cast<uint32_t>(rows), x.dim - skip, x.dim,
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
