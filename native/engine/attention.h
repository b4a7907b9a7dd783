#pragma once
#include <cstdint>
#include <vector>

#include "engine/layer.h"
#include "kernels/kernel_table.h"

namespace terabag {

// A layer over sequences whose arithmetic is mostly matrix multiplication: items [from, to), which are one block, into out, whose rows are
// out_stride floats apart. Sums have one order for each row, so that the bits of an item do not depend on the block that it is in. Padding
// does not exist here: values have rows for the positions that there are.
struct SequenceJob {
  const KernelTable& kernels;
  const Layer& layer;
  const std::vector<Value>& values;  // of the net, by number
  uint64_t from, to;
  float* out;
  uint64_t out_stride;
  float* scratch;   // aligned to a cache line, as long as the scratch function of the layer says
  uint32_t* order;  // one for each item of the block
};

// The first layer of DIN's local activation unit (Zhou et al., 2018): an fc layer over the features of a query vector and each key of a
// sequence, which are the query, the key, their difference and their product, in the layer's order. As
//   Wq q + Wk k + Wd (q - k) + Wp (q * k) = (Wq + Wd) q + ((Wk - Wd) + Wp diag(q)) k
// a pair takes dim multiply-adds for each output, not four times as many: the query's part and its weights are worked out once an item.
void fold_features(Layer& layer, uint32_t dim, uint32_t panel_width);
uint64_t query_key_scratch(const KernelTable& kernels, const Layer& layer, uint32_t dim, uint64_t items);
void run_query_key(const SequenceJob& job);

// Scaled dot-product attention of every head, over a value of queries, keys and values side by side (Vaswani et al., 2017); and HSTU's
// (Zhai et al., 2024), over its U, V, Q and K side by side: SiLU of the products and position biases in place of the softmax, then the norm
// of the sums times U. `longest`: positions of the longest sequence of the block.
void prepare_attention(Layer& layer, uint32_t positions, uint32_t panel_width);
uint64_t attention_scratch(const KernelTable& kernels, const Layer& layer, uint32_t input_dim, uint64_t longest);
void run_attention(const SequenceJob& job);
void run_hstu_attention(const SequenceJob& job);

// Softmax over the positions of a sequence of scores, and the sum of a sequence's positions by their scores.
void run_sequence_softmax(const SequenceJob& job);
void run_weighted_pool(const SequenceJob& job);

}  // namespace terabag
