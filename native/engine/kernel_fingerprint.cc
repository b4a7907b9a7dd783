#include "engine/kernel_fingerprint.h"

#include <vector>

#include "engine/aligned_floats.h"
#include "engine/layer.h"
#include "tables/quantize.h"

namespace terabag {
namespace {

// The same in every build: neither the standard library's distributions nor its mathematical functions take part.
class Numbers {
 public:
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>((next() >> 33) % limit); }
  // In [-1, 1), exact.
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-23f - 1.0f; }
  std::vector<float> floats(uint64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = uniform();
    return values;
  }

 private:
  uint64_t next() { return state_ = state_ * 6364136223846793005u + 1442695040888963407u; }  // Knuth's MMIX
  uint64_t state_ = 1;
};

// FNV-1a with 64 bits.
class Hash {
 public:
  void add(const std::vector<float>& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (uint64_t i = 0; i < values.size() * sizeof(float); ++i) value = (value ^ bytes[i]) * 1099511628211u;
  }
  uint64_t value = 14695981039346656037u;
};

constexpr uint32_t kRows = 8;

// Bags of the rows of one table, pooled in every way.
void add_bags(const KernelTable& kernels, BagJob job, const std::vector<uint32_t>& lengths, Numbers& numbers, Hash& hash) {
  std::vector<uint32_t> offsets{0};
  for (const uint32_t length : lengths) offsets.push_back(offsets.back() + length);
  std::vector<int32_t> indices(offsets.back());
  for (int32_t& index : indices) index = static_cast<int32_t>(numbers.below(kRows));
  const std::vector<float> weights = numbers.floats(indices.size());
  job.divisor = true;
  std::vector<float> out(lengths.size() * floats_per_bag(job));
  job.indices = reinterpret_cast<const unsigned char*>(indices.data());
  job.index_bytes = sizeof(int32_t);
  job.offsets = offsets.data();
  job.num_bags = static_cast<uint32_t>(lengths.size());
  job.out = out.data();
  for (const PoolingInfo& pooling : kPoolings) {
    job.pooling = pooling.pooling;
    for (const bool weighted : {false, true}) {
      job.weights = weighted ? reinterpret_cast<const unsigned char*>(weights.data()) : nullptr;
      BadIndex bad;
      kernels.pool_bags(&job, 1, &bad);
      hash.add(out);
    }
  }
}

}  // namespace

uint64_t pooling_fingerprint(const KernelTable& kernels) {
  // Less than a vector, whole vectors, some values more than these, odd ones, and rows that are summed in parts.
  constexpr uint32_t kDims[] = {1, 5, 16, 37, 64, 130, 300};
  Numbers numbers;
  Hash hash;
  for (uint32_t f = 0; f < kNumRowFormats; ++f) {
    const auto format = static_cast<RowFormat>(f);
    for (const uint32_t dim : kDims) {
      const std::vector<float> values = numbers.floats(static_cast<uint64_t>(kRows) * dim);
      std::vector<unsigned char> rows(kRows * bytes_per_row(format, dim));
      PackError error;
      uint64_t bad_row = 0;
      pack_rows(reinterpret_cast<const unsigned char*>(values.data()), RowFormat::kFp32, kRows, dim, format, rows.data(), &error, &bad_row);
      BagJob job{};
      job.rows = rows.data();
      job.num_rows = kRows;
      job.row_pitch = bytes_per_row(format, dim);
      job.dim = dim;
      job.format = format;
      add_bags(kernels, job, {1, 0, 7, 20}, numbers, hash);
      // So many that rows may be fetched one by one.
      if (dim == 16) add_bags(kernels, job, std::vector<uint32_t>(64, 17), numbers, hash);
    }
  }
  return hash.value;
}

uint64_t dense_fingerprint(const KernelTable& kernels) {
  constexpr uint32_t kInputs = 37, kOutputs = 41, kMostRows = 33, kVectors = 5;
  Numbers numbers;
  Hash hash;
  const std::vector<float> x = numbers.floats(kMostRows * kInputs), weight = numbers.floats(kOutputs * kInputs),
                           bias = numbers.floats(kOutputs);
  Layer layer{};
  layer.dim = kOutputs;
  layer.tensors = {{weight.begin(), weight.end()}, {bias.begin(), bias.end()}};
  pack_layer(layer, kInputs, kernels.panel_width, Precision::kFp32);
  for (const uint32_t rows : {1u, 2u, 7u, kMostRows}) {
    std::vector<float> y(static_cast<uint64_t>(rows) * kOutputs);
    kernels.fully_connected({x.data(), kInputs, rows, kInputs, kInputs, layer.weight().data(), layer.bias().data(), kOutputs, rows % 2 == 0,
                             y.data(), kOutputs});
    hash.add(y);
  }
  const float* vectors[kVectors];
  uint64_t strides[kVectors];
  for (uint32_t v = 0; v < kVectors; ++v) vectors[v] = x.data() + v * kInputs, strides[v] = v == 0 ? 0 : kInputs;
  AlignedFloats scratch(interaction_scratch(kVectors, kInputs));
  for (const bool diagonal : {false, true}) {
    constexpr uint32_t kItems = 3;
    const uint64_t length = kInputs + kVectors * (diagonal ? kVectors + 1 : kVectors - 1) / 2;
    std::vector<float> out(kItems * length);
    kernels.dot_interaction({vectors, strides, kVectors, kInputs, diagonal, kItems, out.data(), length, scratch.data()});
    hash.add(out);
  }
  for (const Function function :
       {Function::kExp, Function::kSigmoid, Function::kTanh, Function::kSilu, Function::kGelu, Function::kGeluTanh}) {
    // From the tails to what is next to 0.
    for (const float scale : {16.0f, 1.0f, 0x1p-10f}) {
      std::vector<float> values = x;
      for (float& value : values) value *= scale;
      kernels.activate({function, values.data(), kMostRows, kInputs, kInputs});
      hash.add(values);
    }
  }
  return hash.value;
}

}  // namespace terabag
