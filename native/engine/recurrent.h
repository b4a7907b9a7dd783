#pragma once
#include <cstdint>

#include "engine/attention.h"

namespace terabag {

// A GRU's steps over sequences whose inputs were multiplied for all positions before: x [3h] of a position, in the order reset, update,
// new; likewise g = weight h + bias of the hidden state, which starts with zeros.
//   r = sigmoid(x_r + g_r)   z = sigmoid(x_z + g_z)   n = tanh(x_n + r * g_n)
//   gru, as torch.nn.GRU: h = n + z * (h - n)          augru (Zhou et al., 2019), a the position's score: h = h + a * z * (n - h)
// A position's value is the state behind it. Items of a block are sorted by length, so that one matrix multiplication a step has those that
// are that long.
uint64_t gru_scratch(const Layer& layer, uint64_t items);
void run_gru(const SequenceJob& job);

}  // namespace terabag
