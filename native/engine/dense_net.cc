#include "engine/dense_net.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>

#include "engine/attention.h"
#include "engine/recurrent.h"
#include "engine/sequence_layers.h"
#include "engine/thread_pool.h"

namespace terabag {
namespace {

std::atomic<uint64_t> numbers{0};

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

uint64_t DenseNet::input_length(uint32_t from, uint32_t to, const RunShape& shape) const {
  uint64_t length = 0;
  for (uint32_t input = from; input < to; ++input) length += inputs_[input].floats() * shape.rows_of(input);
  return length;
}

uint64_t DenseNet::num_lengths(const RunShape& shape) const {
  uint64_t length = 0;
  for (uint32_t input = 0; input < num_inputs(); ++input) {
    if (inputs_[input].positions > 0) length += shape.rows_of(input);
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

bool DenseNet::staged(const Workspace& workspace, uint32_t stage, const RunShape& shape, std::span<const uint32_t> lengths) const {
  const uint32_t before = stage_before(stage);
  if (before == stage) return true;
  if (workspace.net != number_ || workspace.items != shape.items || workspace.stage < before) return false;
  if (!std::equal(workspace.groups.begin(), workspace.groups.end(), shape.groups.begin(), shape.groups.end())) return false;
  // Stage 0 read no bags.
  const uint32_t read = before == 0 ? num_dense_ : num_inputs();
  for (uint32_t input = 0; input < read; ++input) {
    if (workspace.rows[input] != shape.rows[input]) return false;
  }
  return before == 0 || std::equal(workspace.lengths.begin(), workspace.lengths.end(), lengths.begin(), lengths.end());
}

void DenseNet::set_groups(Workspace& workspace, const RunShape& shape) const {
  workspace.groups.assign(shape.groups.begin(), shape.groups.end());
  workspace.group_of.clear();
  for (uint32_t group = 0; group < shape.groups.size(); ++group)
    workspace.group_of.insert(workspace.group_of.end(), shape.groups[group], group);
}

std::string DenseNet::set_lengths(Workspace& workspace, uint32_t stage, const RunShape& shape, std::span<const uint32_t> lengths) const {
  const uint32_t before = stage_before(stage);
  if (stage == 0 || (before != stage && before > 0)) return "";  // None are read, or those of the stage before.
  workspace.net = 0;                                             // What was there belongs to other lengths.
  workspace.lengths.assign(lengths.begin(), lengths.end());
  workspace.starts.resize(num_inputs());
  workspace.item_starts.resize(num_inputs());
  workspace.rows.assign(shape.rows, shape.rows + num_inputs());
  const uint32_t* given = workspace.lengths.data();
  for (uint32_t input = 0; input < num_inputs(); ++input) {
    std::vector<uint64_t>& starts = workspace.starts[input];
    starts.clear();
    if (inputs_[input].positions == 0) continue;
    starts.push_back(0);
    for (uint32_t row = 0; row < shape.rows_of(input); ++row, ++given) {
      if (*given > inputs_[input].positions) {
        return "lengths have a sequence of more positions than input " + std::to_string(input) + " has: row " + std::to_string(row) + ", " +
               std::to_string(*given) + ", at most " + std::to_string(inputs_[input].positions);
      }
      starts.push_back(starts.back() + *given);
    }
    std::vector<uint64_t>& of_items = workspace.item_starts[input];
    of_items.clear();
    if (shape.rows[input] != static_cast<uint8_t>(Rows::kPerGroup)) continue;
    of_items.push_back(0);
    for (const uint32_t group : workspace.group_of) of_items.push_back(of_items.back() + starts[group + 1] - starts[group]);
  }
  for (const auto& [a, b] : together_) {
    const Lengths of_a = lengths_of(workspace, a), of_b = lengths_of(workspace, b);
    for (uint32_t item = 0; item < shape.items; ++item) {
      if (of_a.length(item) == of_b.length(item)) continue;
      return "lengths of inputs " + std::to_string(a) + " and " + std::to_string(b) + " have to be equal: item " + std::to_string(item) +
             ", " + std::to_string(of_a.length(item)) + " and " + std::to_string(of_b.length(item));
    }
  }
  return "";
}

Lengths DenseNet::lengths_of(const Workspace& workspace, uint32_t input) const {
  const auto rows = static_cast<Rows>(workspace.rows[input]);
  Lengths lengths{workspace.starts[input].data(), rows == Rows::kPerItem};
  if (rows != Rows::kPerGroup) return lengths;
  lengths.group_of = workspace.group_of.data();
  lengths.item_starts = workspace.item_starts[input].data();
  return lengths;
}

void DenseNet::pack_sequences(const Workspace& workspace, const std::vector<Value>& given_values, Lane& lane, std::vector<Value>& values,
                              bool per_item, uint64_t from, uint64_t to) const {
  for (uint32_t input = 0; input < num_inputs(); ++input) {
    const Value& given = given_values[input];
    if (!workspace.packs[input] || given.per_item != per_item || given.group_of != nullptr) continue;
    const float* rows = given.data;  // Both may be one value.
    Value& packed = values[input];
    packed.stride = row_stride(given.dim);
    packed.first_item = from;
    float* row = lane.packed[input].data();
    packed.data = row;
    for (uint64_t item = from; item < to; ++item) {
      const float* x = rows + item * inputs_[input].floats();
      for (uint64_t p = given.lengths.length(item); p > 0; --p, x += given.dim, row += packed.stride) std::copy_n(x, given.dim, row);
    }
  }
}

void DenseNet::sum_shared_inputs(Workspace& workspace, size_t l) const {
  const Layer& layer = layers_[l];
  SharedInputs& shared = workspace.shared[l];
  if (shared.count == 0) return;
  const Layer& concat = layers_[layer.inputs[0] - num_inputs()];
  float* x = workspace.lanes[0].padded.data();
  const uint64_t stride = row_stride(shared.count);
  const auto rows = static_cast<uint32_t>(shared.group_of != nullptr ? workspace.groups.size() : 1);
  const std::vector<Value>& values = shared.group_of != nullptr ? workspace.group_values : workspace.values;
  for (uint32_t row = 0; row < rows; ++row) {
    for (size_t i = 0, at = 0; at < shared.count; ++i) {
      const Value& value = values[concat.inputs[i]];
      std::copy_n(value.row(row), value.dim, x + row * stride + at);
      at += value.dim;
    }
  }
  kernels_.fully_connected({x, stride, rows, shared.count, concat.dim, layer.weight().data(), layer.bias().data(), layer.dim, false,
                            shared.sums.data(), layer.bias().size()});
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
    workspace.group_values[input].data = block;
    const uint64_t rows = value.per_item ? workspace.items : value.group_of != nullptr ? workspace.groups.size() : 1;
    if (block != nullptr) block += rows * inputs_[input].floats();
  }
  // What all items share is computed once, first: it reads nothing that is per item. Then what those of a group share.
  Lane& first = workspace.lanes[0];
  const uint64_t groups = workspace.groups.size();
  pack_sequences(workspace, workspace.values, first, workspace.values, false, 0, 1);
  for (uint32_t input = 0; groups > 0 && input < inputs; ++input) {
    if (workspace.values[input].group_of == nullptr) workspace.group_values[input] = by_group(workspace.values[input]);
  }
  if (groups > 0) {
    pack_sequences(workspace, workspace.group_values, first, workspace.group_values, true, 0, groups);
    for (uint32_t input = 0; input < inputs; ++input) {
      if (workspace.values[input].group_of == nullptr) continue;
      workspace.values[input].data = workspace.group_values[input].data;
      workspace.values[input].stride = workspace.group_values[input].stride;
    }
  }
  std::copy(workspace.values.begin(), workspace.values.end(), first.values.begin());
  first.shared = workspace.shared.data();
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].stage != stage || workspace.values[inputs + l].per_item || workspace.values[inputs + l].group_of != nullptr) continue;
    const auto rows = workspace.timed ? &DenseNet::run_timed_rows : &DenseNet::run_rows;
    (this->*rows)(first, layers_[l], 0, 1, workspace.kept[l].data());
  }
  const auto sum_shared = [&](bool of_groups) {
    for (size_t l = 0; l < layers_.size(); ++l) {
      if (layers_[l].stage == stage && (workspace.shared[l].group_of != nullptr) == of_groups) sum_shared_inputs(workspace, l);
    }
  };
  sum_shared(false);
  const std::thread::id caller = std::this_thread::get_id();
  const auto on_lanes = [&](uint64_t lanes, const auto& run) {
    const auto run_one = [&](uint32_t l) {
      Lane& lane = workspace.lanes[l];
      const bool helps = workspace.timed && workspace.reads_cpu && std::this_thread::get_id() != caller;
      const uint64_t cpu_before = helps ? thread_cpu_ns() : 0;
      run(lane, l);
      if (helps) lane.times.cpu_ns += thread_cpu_ns() - cpu_before;
    };
    ThreadPool::shared().parallel(static_cast<uint32_t>(lanes), std::cref(run_one));  // A reference: nothing is allocated.
  };
  if (groups > 0) {
    const uint64_t lanes = group_lanes(workspace, stage);
    on_lanes(lanes, [&](Lane& lane, uint32_t l) { run_groups(workspace, lane, stage, l, lanes); });
    sum_shared(true);
  }
  on_lanes(workspace.lanes.size(), [&](Lane& lane, uint32_t l) { run_lane(workspace, lane, stage, l, scores); });
}

void DenseNet::run_groups(const Workspace& workspace, Lane& lane, uint32_t stage, uint64_t first_block, uint64_t lanes) const {
  const uint32_t inputs = num_inputs();
  const uint64_t groups = workspace.groups.size(), rows = workspace.block_groups;
  std::copy(workspace.group_values.begin(), workspace.group_values.end(), lane.values.begin());
  lane.shared = workspace.shared.data();
  for (uint64_t from = first_block * rows; from < groups; from += lanes * rows) {
    const uint64_t to = std::min(from + rows, groups);
    for (size_t l = 0; l < layers_.size(); ++l) {
      const Value& value = lane.values[inputs + l];
      if (layers_[l].stage != stage || !value.per_item) continue;
      float* out = const_cast<float*>(value.row(from));
      workspace.timed ? run_timed_rows(lane, layers_[l], from, to, out) : run_rows(lane, layers_[l], from, to, out);
    }
  }
}

void DenseNet::run_lane(const Workspace& workspace, Lane& lane, uint32_t stage, uint64_t first_block, float* scores) const {
  const uint32_t inputs = num_inputs();
  const uint64_t items = workspace.items, rows = workspace.block_rows;
  std::copy(workspace.values.begin(), workspace.values.end(), lane.values.begin());
  lane.shared = workspace.shared.data();
  for (uint64_t from = first_block * rows; from < items; from += workspace.lanes.size() * rows) {
    const uint64_t to = std::min(from + rows, items);
    pack_sequences(workspace, workspace.values, lane, lane.values, true, from, to);
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

}  // namespace terabag
