#include "engine/attention.h"

#include <algorithm>
#include <cmath>

#include "engine/elementwise.h"

namespace terabag {
namespace {

// Queries that meet all keys at a time: tiles of every kernel, and few enough that their scores stay in the L1 cache.
constexpr uint64_t kQueryRows = 60;

uint64_t whole(uint64_t count, uint64_t width) { return (count + width - 1) / width * width; }
uint64_t lines(uint64_t floats) { return whole(floats, 16); }

// What the heads of an attention read of one item's sequence, and where they work.
struct Heads {
  const SequenceJob& job;
  uint64_t item;
  uint64_t length;
  uint32_t key_dim;    // of a head's queries and keys
  uint32_t value_dim;  // of its values
  uint32_t queries;    // where those of the first head start in a row; likewise keys, values
  uint32_t keys;
  uint32_t values;
  float scale;  // of keys

  const float* row(uint64_t position) const { return input().row(item, position); }
  const Value& input() const { return job.values[job.layer.inputs[0]]; }
};

// For each head: scores = queries x keys, what weigh(scores, first query, queries, keys) makes of them, then weights x values. In a causal
// attention, a block of queries meets no key behind its last one.
template <typename Weigh>
void run_heads(const Heads& heads, float* out, const Weigh& weigh) {
  const KernelTable& kernels = heads.job.kernels;
  const uint64_t length = heads.length, width = kernels.panel_width, stride = heads.input().stride;
  const float* zeros = heads.job.layer.tensors.back().data();
  float* keys = heads.job.scratch;
  float* values = keys + whole(length, width) * heads.key_dim;
  float* scores = values + lines(whole(heads.value_dim, width) * length);
  const uint64_t score_stride = row_stride(static_cast<uint32_t>(length));
  for (uint32_t head = 0; head < heads.job.layer.heads; ++head) {
    const uint64_t key_at = static_cast<uint64_t>(head) * heads.key_dim, value_at = static_cast<uint64_t>(head) * heads.value_dim;
    const float* row = heads.row(0);
    const auto positions = static_cast<uint32_t>(length), panel = static_cast<uint32_t>(width);
    kernels.attention->pack_keys({row + heads.keys + key_at, stride, length, heads.key_dim, panel, heads.scale, keys});
    kernels.attention->pack_values({row + heads.values + value_at, stride, length, heads.value_dim, panel, 1.0f, values});
    for (uint64_t first = 0; first < length; first += kQueryRows) {
      const auto rows = static_cast<uint32_t>(std::min(kQueryRows, length - first));
      const uint32_t seen = heads.job.layer.causal ? static_cast<uint32_t>(first) + rows : positions;
      const float* query = row + first * stride + heads.queries + key_at;
      kernels.fully_connected({query, stride, rows, heads.key_dim, heads.key_dim, keys, zeros, seen, false, scores, score_stride});
      for (uint64_t r = 0; r < rows; ++r) {
        float* weights = scores + r * score_stride;
        const uint64_t own = heads.job.layer.causal ? first + r + 1 : length;
        weigh(weights, first + r, own);
        std::fill(weights + own, weights + seen, 0.0f);
      }
      kernels.fully_connected({scores, score_stride, rows, seen, positions, values, zeros, heads.value_dim, false,
                               out + first * heads.job.out_stride + value_at, heads.job.out_stride});
    }
  }
}

}  // namespace

void fold_features(Layer& layer, uint32_t dim, uint32_t panel_width) {
  const uint64_t count = layer.features.size(), outputs = layer.dim;
  const auto part = [&](Feature feature) {
    AlignedFloats weights(outputs * dim, 0.0f);
    const auto found = std::find(layer.features.begin(), layer.features.end(), feature);
    if (found == layer.features.end()) return weights;
    const float* from = layer.weight().data() + static_cast<uint64_t>(found - layer.features.begin()) * dim;
    for (uint64_t n = 0; n < outputs; ++n) std::copy_n(from + n * count * dim, dim, weights.data() + n * dim);
    return weights;
  };
  AlignedFloats query = part(Feature::kQuery), key = part(Feature::kKey);
  const AlignedFloats difference = part(Feature::kDifference), product = part(Feature::kProduct);
  for (size_t i = 0; i < difference.size(); ++i) {
    query[i] += difference[i];
    key[i] -= difference[i];
  }
  const auto packed = [&](const AlignedFloats& weights) { return pack_panels(weights, layer.dim, dim, panel_width); };
  AlignedFloats bias = std::move(layer.bias());
  bias.resize(whole(outputs, panel_width), 0.0f);
  layer.tensors = {packed(key), std::move(bias), packed(query), packed(product)};
}

uint64_t query_key_scratch(const KernelTable& kernels, const Layer& layer, uint32_t dim, uint64_t items) {
  return whole(layer.dim, kernels.panel_width) * (dim + items);
}

void run_query_key(const SequenceJob& job) {
  const Layer& layer = job.layer;
  const Value &sequence = job.values[layer.inputs[0]], &query = job.values[layer.inputs[1]];
  const uint32_t dim = sequence.dim, width = job.kernels.panel_width;
  const uint64_t outputs = whole(layer.dim, width);
  const bool has_product = std::find(layer.features.begin(), layer.features.end(), Feature::kProduct) != layer.features.end();
  const AlignedFloats &keys = layer.tensors[0], &bias = layer.tensors[1], &queries = layer.tensors[2], &products = layer.tensors[3];
  float* folded = job.scratch;
  float* sums = folded + outputs * dim;  // of the queries' parts, with the bias: what the pairs of an item start from
  const auto sum_queries = [&](const float* rows, uint64_t count) {
    job.kernels.fully_connected(
        {rows, query.stride, static_cast<uint32_t>(count), dim, dim, queries.data(), bias.data(), layer.dim, false, sums, outputs});
  };
  if (query.per_item) sum_queries(query.row(job.from), job.to - job.from);
  const float* summed = nullptr;  // of queries that items share
  float* out = job.out;
  for (uint64_t item = job.from; item < job.to; ++item, sums += query.per_item ? outputs : 0) {
    const auto length = static_cast<uint32_t>(sequence.lengths.length(item));
    if (length == 0) continue;
    if (!query.per_item && query.row(item) != summed) {
      summed = query.row(item);
      sum_queries(summed, 1);
    }
    if (has_product)
      job.kernels.attention->fold_query(
          {keys.data(), products.data(), query.row(item), dim, static_cast<uint32_t>(outputs / width), width, folded});
    job.kernels.fully_connected({sequence.row(item), sequence.stride, length, dim, dim, has_product ? folded : keys.data(), sums, layer.dim,
                                 layer.activation == Activation::kRelu, out, job.out_stride});
    out += length * job.out_stride;
  }
  Function function{};
  const uint64_t rows = static_cast<uint64_t>(out - job.out) / job.out_stride;
  if (function_of(layer.activation, &function)) job.kernels.activate({function, job.out, rows, layer.dim, job.out_stride});
}

void prepare_attention(Layer& layer, uint32_t positions, uint32_t panel_width) {
  // The bias of its matrix multiplications.
  layer.tensors.emplace_back(whole(std::max(positions, layer.dim), panel_width), 0.0f);
}

uint64_t attention_scratch(const KernelTable& kernels, const Layer& layer, uint32_t input_dim, uint64_t longest) {
  const uint64_t width = kernels.panel_width, value_dim = layer.dim / layer.heads;
  const uint64_t key_dim = layer.op == Op::kAttention ? value_dim : input_dim / (2 * layer.heads) - value_dim;
  return whole(longest, width) * key_dim + lines(whole(value_dim, width) * longest) +
         std::min(kQueryRows, longest) * row_stride(static_cast<uint32_t>(longest));
}

void run_attention(const SequenceJob& job) {
  const Value& input = job.values[job.layer.inputs[0]];
  const uint32_t dim = job.layer.dim, head_dim = dim / job.layer.heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  float* out = job.out;
  for (uint64_t item = job.from; item < job.to; ++item) {
    const uint64_t length = input.lengths.length(item);
    const Heads heads{job, item, length, head_dim, head_dim, 0, dim, 2 * dim, scale};
    if (length > 0)
      run_heads(heads, out, [&job](float* scores, uint64_t, uint64_t count) { job.kernels.softmax({scores, 1, count, count}); });
    out += length * job.out_stride;
  }
}

void run_hstu_attention(const SequenceJob& job) {
  const Layer& layer = job.layer;
  const Value& input = job.values[layer.inputs[0]];
  const uint32_t value_dim = layer.dim / layer.heads, key_dim = input.dim / (2 * layer.heads) - value_dim;
  const uint32_t queries = 2 * layer.dim;
  // That of key j for query i: j - i positions from the middle.
  const AlignedFloats& biases = layer.tensors[0];
  const float* middle = biases.empty() ? nullptr : biases.data() + biases.size() / 2;
  const float share = 1.0f / layer.normalizer;
  const auto weigh = [&](float* scores, uint64_t query, uint64_t count) {
    if (middle != nullptr) {
      const float* bias = middle - query;
      for (uint64_t p = 0; p < count; ++p) scores[p] = scores[p] + bias[p];
    }
    job.kernels.activate({Function::kSilu, scores, 1, count, count});
    for (uint64_t p = 0; p < count; ++p) scores[p] = scores[p] * share;
  };
  float* out = job.out;
  for (uint64_t item = job.from; item < job.to; ++item) {
    const uint64_t length = input.lengths.length(item);
    const Heads heads{job, item, length, key_dim, value_dim, queries, queries + layer.heads * key_dim, layer.dim, 1.0f};
    if (length > 0) run_heads(heads, out, weigh);
    for (uint64_t p = 0; p < length; ++p, out += job.out_stride) {
      normalize(layer.epsilon, layer.dim, out, out);
      const float* u = input.row(item, p);
      for (uint32_t d = 0; d < layer.dim; ++d) out[d] = out[d] * u[d];
    }
  }
}

void run_sequence_softmax(const SequenceJob& job) {
  const Value& scores = job.values[job.layer.inputs[0]];
  float* out = job.out;
  for (uint64_t item = job.from; item < job.to; ++item) {
    const uint64_t length = scores.lengths.length(item);
    // Side by side for the vectors of the exponential function.
    for (uint64_t p = 0; p < length; ++p) job.scratch[p] = *scores.row(item, p);
    job.kernels.softmax({job.scratch, 1, length, length});
    for (uint64_t p = 0; p < length; ++p, out += job.out_stride) *out = job.scratch[p];
  }
}

void run_weighted_pool(const SequenceJob& job) {
  const Value &sequence = job.values[job.layer.inputs[0]], &scores = job.values[job.layer.inputs[1]];
  float* out = job.out;
  for (uint64_t item = job.from; item < job.to; ++item, out += job.out_stride) {
    const uint64_t length = sequence.lengths.length(item);
    job.kernels.attention->sum_rows({scores.row(item), scores.stride, sequence.row(item), sequence.stride, length, job.layer.dim, out});
  }
}

}  // namespace terabag
