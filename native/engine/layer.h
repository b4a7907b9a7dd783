#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/aligned_floats.h"
#include "engine/narrow_operands.h"
#include "kernels/activation.h"

namespace terabag {

// The one table of operations and that of activations: src/model/layers.ts has the same names, and refuses an addon that has others. To add
// an operation: a line here, its check in layer.cc, its arithmetic in elementwise.cc (neither compiles without it), and a line in
// src/model/layers.ts; an activation: a line here and in src/model/layers.ts, its arithmetic in dense_net.cc. X(operation, name there)
#define TERABAG_OPS(X)                  \
  X(kFc, "fc")                          \
  X(kDotInteraction, "dot_interaction") \
  X(kConcat, "concat")                  \
  X(kSum, "sum")                        \
  X(kProduct, "product")                \
  X(kMultiplyAdd, "multiply_add")       \
  X(kLayerNorm, "layer_norm")           \
  X(kActivation, "activation")          \
  X(kPrelu, "prelu")                    \
  X(kDice, "dice")                      \
  X(kScaleShift, "scale_shift")         \
  X(kSoftmax, "softmax")                \
  X(kMixture, "mixture")                \
  X(kFm, "fm")
#define TERABAG_ACTIVATIONS(X) \
  X(kNone, "none")             \
  X(kRelu, "relu")             \
  X(kSigmoid, "sigmoid")       \
  X(kTanh, "tanh")             \
  X(kGelu, "gelu")             \
  X(kGeluTanh, "gelu_tanh")    \
  X(kSilu, "silu")

#define TERABAG_ENUMERATOR(value, name) value,
enum class Op : uint32_t { TERABAG_OPS(TERABAG_ENUMERATOR) };
enum class Activation : uint32_t { TERABAG_ACTIVATIONS(TERABAG_ENUMERATOR) };
#undef TERABAG_ENUMERATOR

// By the values of the enumerations.
#define TERABAG_NAME(value, name) name,
inline constexpr const char* kOpNames[] = {TERABAG_OPS(TERABAG_NAME)};
inline constexpr const char* kActivationNames[] = {TERABAG_ACTIVATIONS(TERABAG_NAME)};
#undef TERABAG_NAME

// The function of an activation that has one; false for none and relu.
bool function_of(Activation activation, Function* function);

// A value of a run: rows of `dim` floats, one for every item from `first_item` on, or one for all.
struct Value {
  const float* data;
  uint32_t dim;
  uint64_t stride;
  bool per_item;
  uint64_t first_item = 0;
  const float* row(uint64_t item) const { return data + (per_item ? (item - first_item) * stride : 0); }
};

struct Layer {
  Op op;
  std::vector<uint32_t> inputs;
  uint32_t dim;
  uint32_t stage;
  Activation activation;
  bool diagonal;
  float epsilon;                       // of a layer norm, of dice
  std::vector<AlignedFloats> tensors;  // those of its operation, in the order of src/model/layers.ts; empty where it has none
  NarrowWeights narrow;                // in place of weight, when the net's precision is not fp32

  // Of operations that start with these two. That of an fc layer is packed in panels once the net took it.
  AlignedFloats& weight() { return tensors[0]; }
  const AlignedFloats& weight() const { return tensors[0]; }
  AlignedFloats& bias() { return tensors[1]; }
  const AlignedFloats& bias() const { return tensors[1]; }
};

// How many tensors a layer of this operation has.
uint32_t num_tensors(Op op);

// What is wrong with a layer whose inputs, of these dims and stages, are all that comes before it; empty when it is sound.
std::string check_layer(const Layer& layer, const std::vector<uint32_t>& dims, const std::vector<uint32_t>& stages);

// What is worked out once from the tensors of a layer that check_layer took: of dice, the inverse of the deviation in place of the
// variance.
void prepare_layer(Layer& layer);

// Lays the weight of an fc layer, [outputs, inputs] row-major, out as panels of panel_width outputs, zero-padded.
void pack_layer(Layer& layer, uint32_t num_inputs, uint32_t panel_width, Precision precision);

}  // namespace terabag
