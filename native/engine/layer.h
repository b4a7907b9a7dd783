#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/aligned_floats.h"
#include "engine/narrow_operands.h"

namespace terabag {

enum class Op { kFc, kDotInteraction, kConcat, kSum, kProduct, kMultiplyAdd, kLayerNorm };
enum class Activation { kNone, kRelu, kSigmoid };

struct Layer {
  Op op;
  std::vector<uint32_t> inputs;
  uint32_t dim;
  uint32_t stage;
  Activation activation;
  bool diagonal;
  float epsilon;         // of a layer norm
  AlignedFloats weight;  // of an fc layer: packed in panels once the net took it
  AlignedFloats bias;
  NarrowWeights narrow;  // in place of weight, when the net's precision is not fp32
};

// What is wrong with a layer whose inputs, of these dims and stages, are all that comes before it; empty when it is sound.
std::string check_layer(const Layer& layer, const std::vector<uint32_t>& dims, const std::vector<uint32_t>& stages);

// Lays the weight of an fc layer, [outputs, inputs] row-major, out as panels of panel_width outputs, zero-padded.
void pack_layer(Layer& layer, uint32_t num_inputs, uint32_t panel_width, Precision precision);

}  // namespace terabag
