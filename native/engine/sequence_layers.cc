#include "engine/sequence_layers.h"

#include <algorithm>

namespace terabag {
namespace {

// out[d] += x[d]
void add(const float* x, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = out[d] + x[d];
}

// out[d] = the larger one; a NaN of either stays.
void keep_larger(const float* x, uint32_t dim, float* out) {
  for (uint32_t d = 0; d < dim; ++d) out[d] = x[d] > out[d] || x[d] != x[d] ? x[d] : out[d];
}

void sequence_pool(const Layer& layer, const Value& sequence, uint64_t item, float* out) {
  const uint64_t length = sequence.lengths.length(item);
  if (length == 0) {
    std::fill_n(out, layer.dim, 0.0f);
    return;
  }
  std::copy_n(sequence.row(item, layer.pooling == SequencePooling::kLast ? length - 1 : 0), layer.dim, out);
  switch (layer.pooling) {
    case SequencePooling::kLast: return;
    case SequencePooling::kMax:
      for (uint64_t p = 1; p < length; ++p) keep_larger(sequence.row(item, p), layer.dim, out);
      return;
    case SequencePooling::kSum:
    case SequencePooling::kMean:
      for (uint64_t p = 1; p < length; ++p) add(sequence.row(item, p), layer.dim, out);
  }
  if (layer.pooling == SequencePooling::kSum) return;
  for (uint32_t d = 0; d < layer.dim; ++d) out[d] = out[d] / static_cast<float>(length);
}

}  // namespace

void run_sequence(const Layer& layer, const std::vector<Value>& values, uint64_t item, float* out, uint64_t out_stride) {
  const Value& sequence = values[layer.inputs[0]];
  const uint64_t length = sequence.lengths.length(item);
  switch (layer.op) {
    case Op::kSequencePool: sequence_pool(layer, sequence, item, out); break;
    case Op::kFlatten:
      for (uint64_t p = 0; p < length; ++p) out = std::copy_n(sequence.row(item, p), sequence.dim, out);
      std::fill_n(out, (sequence.positions - length) * sequence.dim, 0.0f);
      break;
    case Op::kAppend:
      for (uint64_t p = 0; p < length; ++p, out += out_stride) std::copy_n(sequence.row(item, p), layer.dim, out);
      std::copy_n(values[layer.inputs[1]].row(item), layer.dim, out);
      break;
    case Op::kPositions:
      for (uint64_t p = 0; p < length; ++p, out += out_stride) {
        std::copy_n(sequence.row(item, p), layer.dim, out);
        add(layer.weight().data() + p * layer.dim, layer.dim, out);
      }
      break;
    default: break;
  }
}

}  // namespace terabag
