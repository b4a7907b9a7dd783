#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/aligned_floats.h"
#include "engine/job_clock.h"
#include "engine/layer.h"
#include "engine/narrow_operands.h"
#include "kernels/kernel_table.h"

namespace terabag {

// Rows 4096 bytes apart fall into the same few lines of the L1 cache.
inline bool bad_stride(uint64_t stride) { return stride * sizeof(float) % 4096 == 0; }
inline bool collides(const Value& value) { return value.per_item && bad_stride(value.stride); }

// How many leading inputs of an fc layer all items share, or those of each group, and what these add up to with the bias; computed once for
// all items, or once a group.
struct SharedInputs {
  uint32_t count = 0;
  const uint32_t* group_of = nullptr;  // of each item, when there are sums for each group
  AlignedFloats sums;                  // whole panels, group by group
};

// How many rows an input of a run has.
enum class Rows : uint8_t { kOne, kPerItem, kPerGroup };

// What a run is about: so many items, consecutive ones of which may make groups, those of one user say; and the rows of each input.
struct RunShape {
  uint32_t items;
  const uint8_t* rows;               // Rows, one per input
  std::span<const uint32_t> groups;  // items of each, one or more, which add up to all of them; none when no input has a row per group
  uint64_t rows_of(uint32_t input) const {
    switch (static_cast<Rows>(rows[input])) {
      case Rows::kPerItem: return items;
      case Rows::kPerGroup: return groups.size();
      default: return 1;
    }
  }
};

// What one thread of a run works with: the rows of one block, which stay in its cache from layer to layer.
struct Lane {
  std::vector<AlignedFloats> buffers;  // one per layer; empty for those whose rows are kept
  std::vector<AlignedFloats> packed;   // one per input: rows of a sequence without what lies between them
  AlignedFloats padded;                // rows of an input whose own stride is a bad one
  AlignedFloats sums;                  // of each row of an fc layer, those of its group
  AlignedUnits narrow;                 // rows of an input in the net's precision
  std::vector<float> scales;           // of these
  std::vector<int32_t> zero_points;
  std::vector<Value> values;          // inputs, then one per layer
  std::vector<const float*> vectors;  // of an interaction: those of the first item
  std::vector<uint64_t> strides;      // of these, from item to item
  AlignedFloats stacked;              // the interaction's scratch, and that of layers over sequences
  std::vector<uint32_t> order;        // of a block's items
  const SharedInputs* shared;         // the workspace's
  LayerTimes times;                   // of a timed run; the CPU time only of a lane that another thread took
};

// Buffers of one request at a time, kept from request to request: a run that is no larger than one before allocates nothing.
struct Workspace {
  bool busy = false;                          // an asynchronous run has it
  uint64_t net = 0;                           // net that ran last, by its number
  uint32_t items = 0;                         // of that run
  uint32_t stage = 0;                         // of that run
  uint64_t block_rows = 0;                    // items that a lane takes at a time
  uint64_t block_groups = 0;                  // groups likewise
  std::vector<uint8_t> packs;                 // one per input: whether it is a sequence whose rows are packed first
  bool timed = false;                         // whether lanes measure their layers
  bool reads_cpu = false;                     // and their CPU time
  std::vector<uint8_t> rows;                  // of that run, one per input
  std::vector<uint32_t> groups;               // of that run: items of each
  std::vector<uint32_t> group_of;             // of each item
  std::vector<uint32_t> lengths;              // of its sequences, as they were given
  std::vector<std::vector<uint64_t>> starts;  // of these, one per input, empty for vectors; see Lengths
  std::vector<std::vector<uint64_t>> item_starts;
  std::vector<AlignedFloats> kept;   // one per layer: rows that another stage reads, or that items share
  std::vector<Value> values;         // inputs, then one per layer; those of lanes without their data
  std::vector<Value> group_values;   // the same as the groups see them: with a row for each
  std::vector<SharedInputs> shared;  // one per layer
  std::vector<Lane> lanes;
};

class DenseNet {
 public:
  // What a request gives: a dense feature or a bag, or a sequence of at most so many positions.
  struct Input {
    uint32_t dim;
    uint32_t positions;  // 0: a vector
    uint64_t floats() const { return static_cast<uint64_t>(dim) * (positions > 0 ? positions : 1); }
  };
  // Empty *error means that the net is sound.
  DenseNet(const KernelTable& kernels, Precision precision, std::vector<Input> inputs, uint32_t num_dense, std::vector<Layer> layers,
           uint32_t output, std::string* error);
  // Floats that the dense features and the pooled bags of a request have.
  uint64_t input_length(uint32_t from, uint32_t to, const RunShape& shape) const;
  // Lengths that the sequences of a request have: one for each row.
  uint64_t num_lengths(const RunShape& shape) const;
  // Whether the workspace holds what a stage reads: the stages before it of this net, for these items, features and lengths.
  bool staged(const Workspace& workspace, uint32_t stage, const RunShape& shape, std::span<const uint32_t> lengths) const;
  // Gives the workspace a copy of the groups, before the lengths.
  void set_groups(Workspace& workspace, const RunShape& shape) const;
  // Gives the workspace a copy of the lengths, unless a stage before this one did. Returns what is wrong with them; empty when they are
  // sound.
  std::string set_lengths(Workspace& workspace, uint32_t stage, const RunShape& shape, std::span<const uint32_t> lengths) const;
  // Sizes the workspace for a run of these items on up to num_threads threads: all that a run allocates. Groups and lengths were set.
  void prepare(Workspace& workspace, uint32_t stage, const RunShape& shape, unsigned num_threads) const;
  // Runs a stage on a prepared workspace, on the pool's threads too if it has several lanes. Scores do not depend on their number. Lengths
  // were checked by the caller. pooled is null in stage 0, scores in all but the last. Nothing is measured when times is null.
  void run(Workspace& workspace, uint32_t stage, const float* dense, const float* pooled, float* scores, LayerTimes* times = nullptr) const;
  // Stage 0 reads dense features only; later ones read pooled bags too, and the last one, 1 or more, gives the scores.
  uint32_t last_stage() const { return last_stage_; }
  uint32_t num_inputs() const { return static_cast<uint32_t>(inputs_.size()); }
  uint32_t num_dense() const { return num_dense_; }
  uint32_t output_dim() const { return layers_[output_ - num_inputs()].dim; }

 private:
  // The last stage before this one that has a layer; this one when there is none.
  uint32_t stage_before(uint32_t stage) const;
  void run_stage(Workspace& workspace, uint32_t stage, const float* dense, const float* pooled, float* scores) const;
  void run_lane(const Workspace& workspace, Lane& lane, uint32_t stage, uint64_t first_block, float* scores) const;
  // The rows of groups of a lane's blocks, of `lanes` lanes.
  void run_groups(const Workspace& workspace, Lane& lane, uint32_t stage, uint64_t first_block, uint64_t lanes) const;
  // Items, or groups, that a lane takes at a time.
  struct BlockLimits {
    uint64_t least, most;
  };
  BlockLimits block_limits(const std::vector<Value>& values, uint64_t count, uint32_t stage) const;
  uint64_t group_lanes(const Workspace& workspace, uint32_t stage) const;
  Lengths lengths_of(const Workspace& workspace, uint32_t input) const;
  // Which sequences of the request a stage has to pack: it reads them, and their rows do not lie one behind the other, or at a bad stride.
  void choose_packed(Workspace& workspace, uint32_t stage) const;
  // Their rows of these items, or those that all items share, of values as they were given; into a lane's values.
  void pack_sequences(const Workspace& workspace, const std::vector<Value>& given, Lane& lane, std::vector<Value>& values, bool per_item,
                      uint64_t from, uint64_t to) const;
  // The leading inputs of a layer that items share, when it is an fc layer over a concat of them and others; else 0.
  uint32_t shared_inputs(const std::vector<Value>& values, const Layer& layer) const;
  void sum_shared_inputs(Workspace& workspace, size_t layer) const;
  // Rows [from, to) of a layer, into out; they are one block.
  void run_rows(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const;
  void run_timed_rows(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const;
  void run_interaction(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const;
  void run_fully_connected(Lane& lane, const Layer& layer, uint64_t from, uint64_t to, float* out) const;
  void run_fp32(Lane& lane, const Layer& layer, uint64_t from, uint64_t rows, float* out) const;
  void run_narrow(Lane& lane, const Layer& layer, uint64_t from, uint64_t rows, float* out) const;

  const uint64_t number_;  // never 0, and never given twice
  const KernelTable& kernels_;
  const Precision precision_;
  std::vector<Input> inputs_;
  uint32_t num_dense_;
  std::vector<Layer> layers_;
  std::vector<std::pair<uint32_t, uint32_t>> together_;  // sequences whose lengths have to be equal
  std::vector<bool> kept_;                               // whether another stage, or the caller of another one, reads all rows of the layer
  uint32_t output_;
  uint32_t last_stage_ = 1;
};

}  // namespace terabag
