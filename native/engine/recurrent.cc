#include "engine/recurrent.h"

#include <algorithm>

namespace terabag {
namespace {

// g[k] += x[k]
void add_inputs(const float* x, uint64_t count, float* g) {
  for (uint64_t k = 0; k < count; ++k) g[k] = g[k] + x[k];
}

// n[k] = x[k] + r[k] * n[k]
void reset(const float* x, const float* r, uint64_t count, float* n) {
  for (uint64_t k = 0; k < count; ++k) n[k] = x[k] + r[k] * n[k];
}

void update(const float* z, const float* n, uint64_t count, float* h) {
  for (uint64_t k = 0; k < count; ++k) h[k] = n[k] + z[k] * (h[k] - n[k]);
}

void update_by_score(float score, const float* z, const float* n, uint64_t count, float* h) {
  for (uint64_t k = 0; k < count; ++k) h[k] = h[k] + score * z[k] * (n[k] - h[k]);
}

}  // namespace

uint64_t gru_scratch(const Layer& layer, uint64_t items) { return items * (row_stride(layer.dim) + row_stride(3 * layer.dim)); }

void run_gru(const SequenceJob& job) {
  const Layer& layer = job.layer;
  const Value& x = job.values[layer.inputs[0]];
  const Value* scores = layer.op == Op::kAugru ? &job.values[layer.inputs[1]] : nullptr;
  const uint64_t h = layer.dim, items = job.to - job.from;
  const uint64_t state_stride = row_stride(layer.dim), gate_stride = row_stride(3 * layer.dim);
  float* states = job.scratch;  // of the items in the order of their lengths, the longest first
  float* gates = states + items * state_stride;
  const auto length = [&](uint32_t item) { return x.lengths.length(job.from + item); };
  for (uint64_t i = 0; i < items; ++i) job.order[i] = static_cast<uint32_t>(i);
  std::sort(job.order, job.order + items, [&](uint32_t a, uint32_t b) { return length(a) != length(b) ? length(a) > length(b) : a < b; });
  std::fill_n(states, items * state_stride, 0.0f);
  uint64_t active = items;
  for (uint64_t t = 0;; ++t) {
    while (active > 0 && length(job.order[active - 1]) <= t) --active;
    if (active == 0) return;
    const auto row_of = [&](uint64_t i) { return x.row(job.from + job.order[i], t); };
    job.kernels.fully_connected({states, state_stride, static_cast<uint32_t>(active), layer.dim, layer.dim, layer.weight().data(),
                                 layer.bias().data(), 3 * layer.dim, false, gates, gate_stride});
    for (uint64_t i = 0; i < active; ++i) add_inputs(row_of(i), 2 * h, gates + i * gate_stride);
    job.kernels.activate({Function::kSigmoid, gates, active, 2 * h, gate_stride});
    for (uint64_t i = 0; i < active; ++i) reset(row_of(i) + 2 * h, gates + i * gate_stride, h, gates + i * gate_stride + 2 * h);
    job.kernels.activate({Function::kTanh, gates + 2 * h, active, h, gate_stride});
    for (uint64_t i = 0; i < active; ++i) {
      const float *z = gates + i * gate_stride + h, *n = z + h;
      float* state = states + i * state_stride;
      const uint64_t item = job.from + job.order[i];
      if (scores == nullptr) {
        update(z, n, h, state);
      } else {
        update_by_score(*scores->row(item, t), z, n, h, state);
      }
      std::copy_n(state, h, job.out + (x.lengths.start(item) - x.lengths.start(job.from) + t) * job.out_stride);
    }
  }
}

}  // namespace terabag
