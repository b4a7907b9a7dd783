#include <algorithm>

#include "engine/attention.h"
#include "engine/dense_net.h"
#include "engine/recurrent.h"
#include "engine/sequence_layers.h"

// What a run needs before it starts: how its items are split into blocks, and buffers for these.
namespace terabag {
namespace {

// Rows that go through all layers of a stage before the next ones do, so that activations stay in cache: 10 tiles of the avx512 kernel,
// enough to make the reading of the weights a small part. Blocks for several threads are smaller, down to three tiles.
constexpr uint64_t kBlockRows = 112;
constexpr uint64_t kMinBlockRows = 28;

// Positions of sequences that go through all layers of a stage together: as many as make the reading of weights a small part. But at least
// a tile's rows of items, which the layers behind the sequences take.
constexpr uint64_t kBlockPositions = 512;
constexpr uint64_t kMinBlockSequences = 12;

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
  const bool differ = sequence.lengths.per_item || sequence.lengths.group_of != nullptr;
  for (uint64_t item = 0; item < (differ ? items : 1); ++item) most = std::max(most, sequence.lengths.length(item));
  return most;
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

void DenseNet::choose_packed(Workspace& workspace, uint32_t stage) const {
  workspace.packs.assign(num_inputs(), 0);
  for (const Layer& layer : layers_) {
    if (layer.stage != stage) continue;
    for (uint32_t input : layer.inputs) {
      if (input >= num_inputs() || inputs_[input].positions == 0) continue;
      const auto rows = static_cast<Rows>(workspace.rows[input]);
      const uint64_t count = rows == Rows::kPerGroup ? workspace.groups.size() : workspace.items;
      const bool gaps = rows != Rows::kOne && workspace.starts[input].back() != count * inputs_[input].positions;
      workspace.packs[input] = gaps || bad_stride(inputs_[input].dim);
    }
  }
}

uint32_t DenseNet::shared_inputs(const std::vector<Value>& values, const Layer& layer) const {
  // Narrow operands are rounded by the row, so that their sums have no part that rows share.
  if (layer.op != Op::kFc || layer.positions > 0 || precision_ != Precision::kFp32 || layer.inputs[0] < num_inputs()) return 0;
  const Layer& concat = layers_[layer.inputs[0] - num_inputs()];
  if (concat.op != Op::kConcat) return 0;
  uint32_t count = 0;
  for (uint32_t input : concat.inputs) {
    if (values[input].per_item) return count;
    count += values[input].dim;
  }
  return 0;  // All of it is shared, and so is the layer.
}

DenseNet::BlockLimits DenseNet::block_limits(const std::vector<Value>& values, uint64_t count, uint32_t stage) const {
  BlockLimits limits{kMinBlockRows, kBlockRows};
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Value& value = values[num_inputs() + l];
    if (layers_[l].stage != stage || !value.per_item || value.positions == 0) continue;
    const uint64_t length = std::max<uint64_t>(1, value.rows(0, count) / count);
    limits.most = std::min(limits.most, std::max(kBlockPositions / length, kMinBlockSequences));
    limits.least = kMinBlockSequences;
  }
  return limits;
}

uint64_t DenseNet::group_lanes(const Workspace& workspace, uint32_t stage) const {
  const uint64_t groups = workspace.groups.size();
  return std::clamp<uint64_t>(groups / block_limits(workspace.group_values, groups, stage).least, 1, workspace.lanes.size());
}

void DenseNet::prepare(Workspace& workspace, uint32_t stage, const RunShape& shape, unsigned num_threads) const {
  const uint32_t inputs = num_inputs(), items = shape.items;
  const uint64_t groups = workspace.groups.size();
  workspace.net = 0;  // Until the run that this is for.
  workspace.items = items;
  workspace.rows.assign(shape.rows, shape.rows + inputs);
  workspace.values.resize(inputs + layers_.size());
  workspace.kept.resize(std::max(workspace.kept.size(), layers_.size()));
  workspace.shared.resize(layers_.size());
  for (uint32_t input = 0; input < inputs; ++input) {
    const auto [dim, positions] = inputs_[input];
    const auto rows = static_cast<Rows>(shape.rows[input]);
    Value& value = workspace.values[input] = {nullptr, dim, dim, rows == Rows::kPerItem, positions, {}};
    if (rows == Rows::kPerGroup) value.group_of = workspace.group_of.data();
    if (positions > 0 && stage > 0) value.lengths = lengths_of(workspace, input);
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    bool many = false;
    const uint32_t* group_of = nullptr;
    for (uint32_t input : layer.inputs) {
      many = many || workspace.values[input].per_item;
      if (workspace.values[input].group_of != nullptr) group_of = workspace.values[input].group_of;
    }
    Value& value = workspace.values[inputs + l] = {nullptr, layer.dim, row_stride(layer.dim), many, layer.positions, {}};
    value.lengths = workspace.values[layer.inputs[0]].lengths;
    if (layer.op == Op::kAppend) ++value.lengths.appended;
    if (!many) value.group_of = group_of;
  }
  workspace.group_values.resize(workspace.values.size());
  std::transform(workspace.values.begin(), workspace.values.end(), workspace.group_values.begin(), by_group);
  choose_packed(workspace, stage);
  const BlockLimits limits = block_limits(workspace.values, items, stage);
  const uint64_t lanes = std::clamp<uint64_t>(items / limits.least, 1, num_threads);
  workspace.block_rows = std::min(limits.most, std::max((items + lanes - 1) / lanes, limits.least));
  workspace.lanes.resize(lanes);
  if (groups > 0) {
    const BlockLimits of_groups = block_limits(workspace.group_values, groups, stage);
    const uint64_t used = group_lanes(workspace, stage);
    workspace.block_groups = std::min(of_groups.most, std::max((groups + used - 1) / used, of_groups.least));
  }
  const auto rows_of = [&](const Value& value) { return most_rows(value, items, workspace.block_rows); };
  uint64_t most_vectors = 0, stacked = 0, padded = 0, most_units = 0, narrow_rows = 0, sums = 0, shared_padded = 0;
  const auto grow = [](auto& buffer, uint64_t length) {
    if (buffer.size() < length) buffer.resize(length);
  };
  for (Lane& lane : workspace.lanes) {
    grow(lane.buffers, layers_.size());
    grow(lane.packed, inputs);
    for (uint32_t input = 0; input < inputs; ++input) {
      const Value& value = workspace.values[input];
      if (workspace.packs[input] && value.group_of == nullptr) grow(lane.packed[input], rows_of(value) * row_stride(value.dim));
    }
  }
  for (uint32_t input = 0; input < inputs; ++input) {
    const Value& value = workspace.values[input];
    if (!workspace.packs[input] || value.group_of == nullptr) continue;
    grow(workspace.lanes[0].packed[input], workspace.group_values[input].rows(0, groups) * row_stride(value.dim));
  }
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    Value& value = workspace.values[inputs + l];
    const bool kept = !value.per_item || kept_[l];
    // A layer that groups have rows of runs on their blocks.
    const bool of_groups = value.group_of != nullptr;
    const std::vector<Value>& values = of_groups ? workspace.group_values : workspace.values;
    const uint64_t count = of_groups ? groups : items, block_rows = of_groups ? workspace.block_groups : workspace.block_rows;
    if (kept && layer.stage == stage)
      grow(workspace.kept[l], values[inputs + l].rows(0, values[inputs + l].per_item ? count : 1) * value.stride);
    if (kept) value.data = workspace.group_values[inputs + l].data = workspace.kept[l].data();
    if (layer.stage != stage) continue;
    const Value& first = values[layer.inputs[0]];
    const uint64_t rows = most_rows(first, count, block_rows);
    if (!kept) {
      const uint64_t length = rows_of(value) * value.stride;
      for (Lane& lane : workspace.lanes) grow(lane.buffers[l], length);
    }
    if (layer.op == Op::kFc && collides(first)) padded = std::max(padded, rows * row_stride(first.dim));
    SharedInputs& shared = workspace.shared[l];
    shared.count = shared_inputs(values, layer);
    shared.group_of = nullptr;
    if (shared.count > 0) {
      const Layer& concat = layers_[layer.inputs[0] - inputs];
      for (size_t i = 0, at = 0; at < shared.count; at += workspace.values[concat.inputs[i++]].dim) {
        const Value& leading = workspace.values[concat.inputs[i]];
        if (value.per_item && leading.group_of != nullptr) shared.group_of = leading.group_of;
      }
      const uint64_t sum_rows = shared.group_of != nullptr ? groups : 1;
      shared_padded = std::max(shared_padded, sum_rows * row_stride(shared.count));
      // What lies between the outputs and the end of the last panel is read, and of no effect.
      grow(shared.sums, sum_rows * layer.bias().size());
      if (shared.group_of != nullptr) sums = std::max(sums, rows * layer.bias().size());
    }
    if (layer.op == Op::kFc && precision_ != Precision::kFp32) {
      narrow_rows = std::max(narrow_rows, rows);
      most_units = std::max<uint64_t>(most_units, row_stride(units_of(precision_, first.dim)));
    }
    stacked = std::max(stacked, scratch_of(kernels_, layer, first, count, std::min(block_rows, count)));
    if (layer.op == Op::kDotInteraction) {
      most_vectors = std::max<uint64_t>(most_vectors, layer.inputs.size());
      stacked = std::max(stacked, interaction_scratch(static_cast<uint32_t>(layer.inputs.size()), first.dim));
    }
  }
  grow(workspace.lanes[0].padded, shared_padded);
  for (Lane& lane : workspace.lanes) {
    grow(lane.padded, padded);
    grow(lane.sums, sums);
    grow(lane.stacked, stacked);
    grow(lane.narrow, narrow_rows * most_units);
    grow(lane.scales, narrow_rows);
    grow(lane.zero_points, narrow_rows);
    lane.values.resize(workspace.values.size());
    grow(lane.order, std::max(std::min<uint64_t>(workspace.block_rows, items), std::min<uint64_t>(workspace.block_groups, groups)));
    grow(lane.vectors, most_vectors);
    grow(lane.strides, most_vectors);
  }
}

}  // namespace terabag
