#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/aligned_floats.h"
#include "engine/narrow_operands.h"
#include "kernels/activation.h"

namespace terabag {

// The one table of operations and that of activations: src/model/ops.ts has the same names, and refuses an addon that has others. To add
// an operation: a line here, its check in layer.cc, its arithmetic in elementwise.cc (neither compiles without it), and a line in
// src/model/ops.ts; an activation: a line here and there, its arithmetic in kernels/activation/functions.h. X(operation, name there)
#define TERABAG_OPS(X)                    \
  X(kFc, "fc")                            \
  X(kDotInteraction, "dot_interaction")   \
  X(kConcat, "concat")                    \
  X(kSum, "sum")                          \
  X(kProduct, "product")                  \
  X(kMultiplyAdd, "multiply_add")         \
  X(kLayerNorm, "layer_norm")             \
  X(kActivation, "activation")            \
  X(kPrelu, "prelu")                      \
  X(kDice, "dice")                        \
  X(kScaleShift, "scale_shift")           \
  X(kSoftmax, "softmax")                  \
  X(kMixture, "mixture")                  \
  X(kFm, "fm")                            \
  X(kSequencePool, "sequence_pool")       \
  X(kFlatten, "flatten")                  \
  X(kAppend, "append")                    \
  X(kPositions, "positions")              \
  X(kQueryKey, "query_key")               \
  X(kSequenceSoftmax, "sequence_softmax") \
  X(kWeightedPool, "weighted_pool")       \
  X(kAttention, "attention")              \
  X(kHstuAttention, "hstu_attention")     \
  X(kGru, "gru")                          \
  X(kAugru, "augru")
#define TERABAG_ACTIVATIONS(X) \
  X(kNone, "none")             \
  X(kRelu, "relu")             \
  X(kSigmoid, "sigmoid")       \
  X(kTanh, "tanh")             \
  X(kGelu, "gelu")             \
  X(kGeluTanh, "gelu_tanh")    \
  X(kSilu, "silu")
#define TERABAG_SEQUENCE_POOLINGS(X) \
  X(kSum, "sum")                     \
  X(kMean, "mean")                   \
  X(kMax, "max")                     \
  X(kLast, "last")
// What a query and a key are seen by.
#define TERABAG_FEATURES(X)    \
  X(kQuery, "query")           \
  X(kKey, "key")               \
  X(kDifference, "difference") \
  X(kProduct, "product")

#define TERABAG_ENUMERATOR(value, name) value,
enum class Op : uint32_t { TERABAG_OPS(TERABAG_ENUMERATOR) };
enum class Activation : uint32_t { TERABAG_ACTIVATIONS(TERABAG_ENUMERATOR) };
enum class SequencePooling : uint32_t { TERABAG_SEQUENCE_POOLINGS(TERABAG_ENUMERATOR) };
enum class Feature : uint32_t { TERABAG_FEATURES(TERABAG_ENUMERATOR) };
#undef TERABAG_ENUMERATOR

// By the values of the enumerations.
#define TERABAG_NAME(value, name) name,
inline constexpr const char* kOpNames[] = {TERABAG_OPS(TERABAG_NAME)};
inline constexpr const char* kActivationNames[] = {TERABAG_ACTIVATIONS(TERABAG_NAME)};
inline constexpr const char* kSequencePoolingNames[] = {TERABAG_SEQUENCE_POOLINGS(TERABAG_NAME)};
inline constexpr const char* kFeatureNames[] = {TERABAG_FEATURES(TERABAG_NAME)};
#undef TERABAG_NAME

// The function of an activation that has one; false for none and relu.
bool function_of(Activation activation, Function* function);

// How long the rows of a sequence are. Their positions are counted through: those of an item start behind those of the items before it, so
// that what runs position by position has no work on padding.
struct Lengths {
  const uint64_t* starts = nullptr;    // [rows + 1] of the input that the sequence comes from: where each row's positions start
  bool per_item = false;               // whether that input has a row for every item; else, without groups, all are as long as the only one
  uint32_t appended = 0;               // positions that each row has beyond the input's
  const uint32_t* group_of = nullptr;  // of an input with a row for every group: that of each item
  const uint64_t* item_starts = nullptr;  // [items + 1] with groups: where the positions of each item start when each has its own
  uint64_t length(uint64_t item) const {
    const uint64_t row = per_item ? item : group_of != nullptr ? group_of[item] : 0;
    return starts[row + 1] - starts[row] + appended;
  }
  uint64_t start(uint64_t item) const {
    if (per_item) return starts[item] + appended * item;
    return group_of != nullptr ? item_starts[item] + appended * item : item * length(0);
  }
  // Of a value that has a row for every group.
  uint64_t group_start(uint64_t group) const { return group_of != nullptr ? starts[group] + appended * group : group * length(0); }
};

// A value of a run: of every item from `first_item` on, one for all, or one for every group of items. A vector is a row of `dim` floats; a
// sequence has a row for each of its positions, those of an item behind those of the one before.
struct Value {
  const float* data;
  uint32_t dim;
  uint64_t stride;  // from row to row
  bool per_item;
  uint32_t positions = 0;  // of a sequence: at most; 0: a vector
  Lengths lengths;
  uint64_t first_item = 0;
  const uint32_t* group_of = nullptr;  // of a value with a row for every group: that of each item
  const float* row(uint64_t item, uint64_t position = 0) const { return data + (first_row(item) + position) * stride; }
  // Rows of these items, or of the one that is there for all.
  uint64_t rows(uint64_t from, uint64_t to) const { return positions == 0 ? to - from : lengths.start(to) - lengths.start(from); }

 private:
  uint64_t first_row(uint64_t item) const {
    if (group_of != nullptr) return positions == 0 ? group_of[item] : lengths.group_start(group_of[item]);
    if (!per_item) return 0;
    return positions == 0 ? item - first_item : lengths.start(item) - lengths.start(first_item);
  }
};

// A value as the groups see it: with a row for each of them, where it is theirs. One that is per item is not read there.
inline Value by_group(Value value) {
  if (value.per_item) return {nullptr, value.dim, value.stride, false, value.positions, {}};
  if (value.group_of == nullptr) return value;
  value.per_item = true;
  value.group_of = nullptr;
  if (value.lengths.group_of != nullptr) value.lengths = {value.lengths.starts, true, value.lengths.appended};
  return value;
}

// Floats from row to row of a layer's buffer: an odd number of 64-byte cache lines, so that the rows of a tile spread over the L1 cache.
inline uint64_t row_stride(uint32_t dim) { return ((static_cast<uint64_t>(dim) + 15) / 16 | 1) * 16; }

// What is known of a value before a run.
struct Shape {
  uint32_t dim;
  uint32_t stage;
  uint32_t positions = 0;  // of a sequence: at most; 0: a vector
  uint32_t input = 0;      // of a sequence: that whose lengths it has,
  uint32_t appended = 0;   // but for so many positions more
};

struct Layer {
  Op op;
  std::vector<uint32_t> inputs;
  uint32_t dim;
  uint32_t stage;
  Activation activation;
  bool diagonal;
  uint32_t positions;                  // of its value, as in Shape
  SequencePooling pooling;             // of a sequence_pool
  std::vector<Feature> features;       // of a query_key: those that it has weights for, in this order
  uint32_t heads;                      // of an attention
  bool causal;                         // likewise: whether a position sees only those up to its own
  float normalizer;                    // of an hstu_attention: what its weights are divided by
  float epsilon;                       // of a layer norm, of dice
  std::vector<AlignedFloats> tensors;  // those of its operation, in the order of src/model/ops.ts; empty where it has none
  NarrowWeights narrow;                // in place of weight, when the net's precision is not fp32

  // Of operations that start with these two. That of an fc layer is packed in panels once the net took it.
  AlignedFloats& weight() { return tensors[0]; }
  const AlignedFloats& weight() const { return tensors[0]; }
  AlignedFloats& bias() { return tensors[1]; }
  const AlignedFloats& bias() const { return tensors[1]; }
};

// How many tensors a layer of this operation has.
uint32_t num_tensors(Op op);

// What is wrong with a layer whose inputs are of all values that come before it; empty when it is sound.
std::string check_layer(const Layer& layer, const std::vector<Shape>& values);

// The shape of a sound layer's value.
Shape shape_of(const Layer& layer, const std::vector<Shape>& values);

// Whether a layer's value is computed row by row, be its inputs vectors or sequences of the same lengths.
bool is_row_by_row(Op op);

// Weights [outputs, inputs] row-major as panels of panel_width outputs, zero-padded; see native/kernels/fully_connected.h.
AlignedFloats pack_panels(const AlignedFloats& weight, uint32_t outputs, uint32_t inputs, uint32_t panel_width);

// What is worked out once from the tensors of a layer that check_layer took: of dice, the inverse of the deviation in place of the
// variance.
void prepare_layer(Layer& layer);

// Lays the weight of an fc layer, [outputs, inputs] row-major, out as panels of panel_width outputs, zero-padded.
void pack_layer(Layer& layer, uint32_t num_inputs, uint32_t panel_width, Precision precision);

}  // namespace terabag
