#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/aligned_floats.h"
#include "kernels/kernel_table.h"

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
};

// A value of a run: rows of `dim` floats, one for every item or one for all; row r starts at data + r * stride.
struct Value {
  const float* data;
  uint32_t dim;
  uint64_t stride;
  bool per_item;
  const float* row(uint64_t item) const { return data + (per_item ? item * stride : 0); }
};

// Buffers of one request at a time, kept from request to request: a run that is no larger than one before allocates nothing.
struct Workspace {
  bool busy = false;                   // an asynchronous run has it
  uint64_t net = 0;                    // net that ran last, by its number
  uint32_t items = 0;                  // of that run
  std::vector<uint8_t> per_item;       // of that run, one per input
  std::vector<AlignedFloats> buffers;  // one per layer
  std::vector<Value> values;           // inputs, then one per layer
  std::vector<const float*> vectors;   // of one item's interaction
};

class DenseNet {
 public:
  // Empty *error means that the net is sound.
  DenseNet(const KernelTable& kernels, std::vector<uint32_t> input_dims, uint32_t num_dense, std::vector<Layer> layers, uint32_t output,
           std::string* error);
  // Floats that the dense features and the pooled bags of a request have.
  uint64_t input_length(uint32_t from, uint32_t to, uint32_t items, const uint8_t* per_item) const;
  // Whether the workspace holds what stage 1 reads: stage 0 of this net for these items and dense features.
  bool staged(const Workspace& workspace, uint32_t items, const uint8_t* per_item) const;
  // Sizes the workspace for a run of these items: all that a run allocates.
  void prepare(Workspace& workspace, uint32_t stage, uint32_t items, const uint8_t* per_item) const;
  // Runs a stage on a prepared workspace. Lengths were checked by the caller. pooled and scores are null in stage 0.
  void run(Workspace& workspace, uint32_t stage, const float* dense, const float* pooled, float* scores) const;
  uint32_t num_inputs() const { return static_cast<uint32_t>(input_dims_.size()); }
  uint32_t num_dense() const { return num_dense_; }
  uint32_t output_dim() const { return layers_[output_ - num_inputs()].dim; }

 private:
  void run_rows(Workspace& workspace, size_t layer_number, uint64_t from, uint64_t to) const;

  const uint64_t number_;  // never 0, and never given twice
  const KernelTable& kernels_;
  std::vector<uint32_t> input_dims_;
  uint32_t num_dense_;
  std::vector<Layer> layers_;
  uint32_t output_;
};

}  // namespace terabag
