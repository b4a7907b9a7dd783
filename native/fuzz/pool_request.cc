// libFuzzer target: any bytes as a request of bags over tables of every format. A request is refused with a status, or pooled to the sums
// of a plain loop; nothing else is read or written, which the sanitizers watch.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine/sparse_engine.h"
#include "kernels/row_format.h"

namespace {

using namespace terabag;

constexpr uint32_t kTables = kNumRowFormats;
constexpr uint32_t kRows = 5;
constexpr uint32_t kMean = 1, kMax = 4, kWeightedMean = 8;  // flags of poolings

struct Tables {
  SparseEngine engine{*selected_kernels(), Residency::kMap};
  uint32_t dims[kTables];

  Tables() {
    char path[] = "/tmp/terabag-fuzz-XXXXXX";
    const int file = mkstemp(path);
    std::vector<unsigned char> bytes;
    uint64_t starts[kTables];
    for (uint32_t t = 0; t < kTables; ++t) {
      dims[t] = 3 + t * 7;
      starts[t] = bytes.size();
      const uint64_t row_bytes = bytes_per_row(static_cast<RowFormat>(t), dims[t]);
      // Small positive numbers in every format: bytes 0x38, 0x34 make floats, halves and bfloat16 far from infinity.
      for (uint64_t i = 0; i < kRows * row_bytes; ++i) bytes.push_back(i % 2 == 0 ? 0x34 : 0x38);
    }
    if (file < 0 || write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
    close(file);
    for (uint32_t t = 0; t < kTables; ++t) {
      TableView view{};
      view.table = t, view.part = 0, view.parts = 1, view.num_rows = kRows, view.dim = dims[t], view.format = static_cast<RowFormat>(t);
      Failure failure;
      if (!engine.add(view, path, starts[t], 0, 1, &failure)) std::abort();
    }
    unlink(path);
  }
};

// Takes pieces off the input; zeros when it ends.
struct Input {
  const uint8_t* data;
  size_t left;
  uint32_t number() {
    uint32_t value = 0;
    const size_t take = left < 4 ? left : 4;
    std::memcpy(&value, data, take);
    data += take, left -= take;
    return value;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tables tables;
  Input input{data, size};
  const uint32_t shape = input.number();
  const uint32_t num_segments = shape & 7, index_bytes = shape & 8 ? 8 : 4;
  // Half of the requests are put together soundly, apart from what the input spoils, so that the kernels are reached.
  const bool sound = (shape & 16) != 0;
  std::vector<uint32_t> segments, offsets{0};
  std::vector<unsigned char> indices, weights;
  uint64_t out_length = 0;
  for (uint32_t s = 0; s < num_segments; ++s) {
    const uint32_t word = input.number();
    const uint32_t table = sound ? word % kTables : word % (kTables + 2), bags = word >> 8 & 7;
    const uint32_t flags =
        sound ? kPoolings[word >> 16 & 3].flag | (word >> 18 & 1) * kWeighted | (word >> 19 & 1) * kDivisor : word >> 16 & 63;
    segments.insert(segments.end(), {table, 0, 1, bags, flags});
    out_length += static_cast<uint64_t>(bags) * ((table < kTables ? tables.dims[table] : 1) + ((flags & kDivisor) != 0 ? 1 : 0));
    for (uint32_t b = 0; b < bags; ++b) {
      const uint32_t count = input.number() % 9;
      offsets.push_back(offsets.back() + count);
      for (uint32_t i = 0; i < count; ++i) {
        const int64_t id = sound ? input.number() % (kRows + (input.left % 97 == 0)) : static_cast<int32_t>(input.number()) % 8;
        const auto* bytes = reinterpret_cast<const unsigned char*>(&id);
        indices.insert(indices.end(), bytes, bytes + index_bytes);
        if ((flags & kWeighted) != 0) weights.insert(weights.end(), {0, 0, 0x80, 0x3f});
      }
    }
  }
  if (!sound) {
    for (uint32_t& offset : offsets) offset ^= input.number() & 3;
    indices.resize(indices.size() - std::min<size_t>(indices.size(), input.number() % 5));
    weights.resize(weights.size() - std::min<size_t>(weights.size(), input.number() % 5));
    for (uint32_t& field : segments) field ^= input.number() & 1;
    out_length += input.number() % 3;
  }
  std::vector<float> out(out_length);
  PoolRequest request{};
  request.segments = reinterpret_cast<const unsigned char*>(segments.data()), request.segments_bytes = segments.size() * 4;
  request.index_bytes = index_bytes;
  request.indices = indices.data(), request.indices_bytes = indices.size();
  request.offsets = reinterpret_cast<const unsigned char*>(offsets.data()), request.offsets_bytes = offsets.size() * 4;
  request.weights = weights.data(), request.weights_bytes = weights.size();
  request.out = out.data(), request.out_length = out.size();
  const PoolStatus status = tables.engine.pool(request, 1);
  if (status.status != nullptr) return 0;
  // All weights are 1.
  uint64_t bag = 0, at = 0;
  for (size_t s = 0; s < segments.size(); s += 5) {
    const RowFormat format = static_cast<RowFormat>(segments[s]);
    const uint32_t dim = tables.dims[segments[s]], flags = segments[s + 4];
    std::vector<unsigned char> row(bytes_per_row(format, dim));
    for (uint32_t b = 0; b < segments[s + 3]; ++b, ++bag) {
      const uint32_t count = offsets[bag + 1] - offsets[bag];
      for (uint32_t d = 0; d < dim; ++d, ++at) {
        double sum = 0, largest = 0;
        for (uint32_t i = 0; i < count; ++i) {
          int64_t id = 0;
          std::memcpy(&id, indices.data() + (offsets[bag] + i) * index_bytes, index_bytes);
          for (uint64_t byte = 0; byte < row.size(); ++byte)
            row[byte] = (static_cast<uint64_t>(id) * row.size() + byte) % 2 == 0 ? 0x34 : 0x38;
          const RowScale scale = is_quantized(format) ? row_scale(row.data(), format, dim) : RowScale{1, 0};
          const double value = static_cast<double>(scale.scale) * row_value(row.data(), format, d) + scale.bias;
          sum += value;
          largest = i == 0 ? value : std::max(largest, value);
        }
        const bool mean = (flags & (kMean | kWeightedMean)) != 0 && (flags & kDivisor) == 0;
        const double want = (flags & kMax) != 0 ? largest : mean && count > 0 ? sum / count : sum;
        if (!(std::abs(out[at] - want) <= 1e-4 * std::abs(want) + 1e-9)) std::abort();
      }
      if ((flags & kDivisor) != 0 && out[at++] != static_cast<float>(count)) std::abort();
    }
  }
  return 0;
}
