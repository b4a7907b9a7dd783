// libFuzzer target: any bytes as a request of bags over plain and keyed tables of every format, with every rule of ids. A request is
// refused with a status, or pooled to what a plain loop gives; nothing else is read or written, which the sanitizers watch.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "engine/sparse_engine.h"
#include "kernels/mix64.h"
#include "kernels/row_format.h"
#include "tables/key_index.h"

namespace {

using namespace terabag;

// One of each format whose ids are rows, then one of each that has keys.
constexpr uint32_t kTables = 2 * kNumRowFormats;
constexpr uint32_t kRows = 40;
constexpr uint32_t kMean = 1, kMax = 4, kWeightedMean = 8;  // flags of poolings
constexpr float kDefault = 0.25f;                           // of the rule that has a vector; every format holds a row of it exactly
constexpr float kWeights[] = {1, 0.5, -2, 0};               // whose sums are exact
constexpr int64_t kAbsent[] = {kRows, -3, 1000, 1ll << 33, std::numeric_limits<int64_t>::max()};
// Of a bag with so many ids rows go one by one, of others in bursts.
constexpr size_t kManyIds = 1100;

uint32_t dim_of(uint32_t table) { return 3 + table % kNumRowFormats * 7; }
RowFormat format_of(uint32_t table) { return static_cast<RowFormat>(table % kNumRowFormats); }
bool is_keyed(uint32_t table) { return table >= kNumRowFormats; }

// The id of a row: some that 4 bytes hold, some that they do not.
int64_t id_of(uint32_t table, uint32_t row) {
  if (!is_keyed(table) || row == 0) return row;
  if (row == 1) return -1;
  if (row == 2) return std::numeric_limits<int64_t>::min();
  return static_cast<int64_t>(row % 2 == 0 ? mix64(row) : mix64(row) >> 33);
}

std::vector<unsigned char> row_of(uint32_t table, uint32_t row) {
  std::vector<unsigned char> bytes(bytes_per_row(format_of(table), dim_of(table)));
  for (uint64_t at = 0; at < bytes.size(); ++at) {
    const auto any = static_cast<unsigned char>(mix64((row * kTables + table) * 1024 + at));
    // Every other byte, the last one among them, makes floats, halves and bfloat16 of it small positive numbers.
    bytes[at] = (bytes.size() - at) % 2 == 1 ? 0x34 + any % 4 : any;
  }
  return bytes;
}

// The ids and the values of a table's rows, worked out once.
struct PlainTable {
  std::vector<int64_t> ids;
  std::vector<double> values;  // [kRows, dim]

  explicit PlainTable(uint32_t table) {
    for (uint32_t row = 0; row < kRows; ++row) {
      ids.push_back(id_of(table, row));
      const std::vector<unsigned char> bytes = row_of(table, row);
      const RowFormat format = format_of(table);
      const RowScale scale = is_quantized(format) ? row_scale(bytes.data(), format, dim_of(table)) : RowScale{1, 0};
      for (uint32_t d = 0; d < dim_of(table); ++d)
        values.push_back(static_cast<double>(scale.scale) * row_value(bytes.data(), format, d) + scale.bias);
    }
  }
};

const PlainTable& plain_table(uint32_t table) {
  static const std::vector<PlainTable> tables = [] {
    std::vector<PlainTable> made;
    for (uint32_t t = 0; t < kTables; ++t) made.emplace_back(t);
    return made;
  }();
  return tables[table];
}

struct RuleOfIds {
  UnseenPolicy policy;
  std::optional<int64_t> padding_id = std::nullopt;
  std::optional<uint64_t> row = std::nullopt;
  bool has_vector = false;
  uint64_t buckets = 0;
};
const RuleOfIds kRules[] = {
    {UnseenPolicy::kReject},
    {UnseenPolicy::kSkip},
    {UnseenPolicy::kRow},  // zeros
    {UnseenPolicy::kRow, std::nullopt, kRows - 1},
    {UnseenPolicy::kRow, std::nullopt, std::nullopt, true},
    {UnseenPolicy::kHash, std::nullopt, std::nullopt, false, 3},
    {UnseenPolicy::kHash, -3, std::nullopt, false, kRows},
    {UnseenPolicy::kReject, -1},
    {UnseenPolicy::kSkip, 0},
    {UnseenPolicy::kRow, 7, 2},
    {UnseenPolicy::kReject, 1ll << 33},
};
constexpr uint32_t kNumRules = sizeof kRules / sizeof kRules[0];

struct Tables {
  SparseEngine engine{*selected_kernels(), Residency::kMap};
  std::vector<uint64_t> unseen = std::vector<uint64_t>(kTables);  // as the engine counted after the last request

  Tables() {
    std::vector<unsigned char> bytes;
    uint64_t starts[kTables];
    KeyIndexFile indexes[kTables];
    for (uint32_t t = 0; t < kTables; ++t) {
      starts[t] = bytes.size();
      for (uint32_t row = 0; row < kRows; ++row) {
        const std::vector<unsigned char> of_row = row_of(t, row);
        bytes.insert(bytes.end(), of_row.begin(), of_row.end());
      }
      if (is_keyed(t)) indexes[t] = append_index(t, &bytes);
    }
    char path[] = "/tmp/terabag-fuzz-XXXXXX";
    const int file = mkstemp(path);
    if (file < 0 || write(file, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
    close(file);
    for (uint32_t t = 0; t < kTables; ++t) {
      TableView view{};
      view.table = t, view.part = 0, view.parts = 1, view.num_rows = kRows, view.dim = dim_of(t), view.format = format_of(t);
      Failure failure;
      indexes[t].path = path;
      const bool added =
          is_keyed(t) ? engine.add_keyed(view, path, starts[t], indexes[t], &failure) : engine.add(view, path, starts[t], 0, 1, &failure);
      if (!added || !engine.set_rules(t, 0, 1, rules_of(t), &failure)) std::abort();
    }
    unlink(path);
  }

  static std::vector<TableRule> rules_of(uint32_t table) {
    std::vector<TableRule> rules;
    for (const RuleOfIds& rule : kRules) {
      const uint32_t values = rule.has_vector ? dim_of(table) : 0;
      rules.push_back({rule.policy, rule.padding_id, rule.row, std::vector<float>(values, kDefault), rule.buckets});
    }
    return rules;
  }

  static KeyIndexFile append_index(uint32_t table, std::vector<unsigned char>* bytes) {
    int64_t keys[kRows];
    for (uint32_t row = 0; row < kRows; ++row) keys[row] = id_of(table, row);
    KeyIndexBuilder builder(kRows, "/tmp");
    bool done = false;
    if (builder.add(reinterpret_cast<const unsigned char*>(keys), kRows) != KeyIndexStatus::kOk) std::abort();
    if (builder.count_range(&done) != KeyIndexStatus::kOk || !done) std::abort();
    const KeyIndexFile index{"", bytes->size(), builder.num_buckets(), kRows, builder.seed()};
    bytes->resize(bytes->size() + index.num_buckets * kBucketBytes);
    uint64_t written = 0;
    const KeyIndexStatus placed = builder.place(bytes->data() + index.byte_offset, index.num_buckets, &written);
    if (placed != KeyIndexStatus::kOk || written != index.num_buckets) std::abort();
    return index;
  }
};

// Takes pieces off the input; zeros when it ends.
struct Input {
  const uint8_t* data;
  size_t left;
  uint32_t number() {
    uint32_t value = 0;
    const size_t take = left < 4 ? left : 4;
    if (take > 0) std::memcpy(&value, data, take);
    data += take, left -= take;
    return value;
  }
};

struct Request {
  bool sound;  // apart from what the input spoils, so that the kernels are reached
  uint32_t index_bytes;
  std::vector<uint32_t> segments, offsets{0};
  std::vector<unsigned char> indices;
  std::vector<float> weights;
  uint64_t weights_bytes = 0, out_length = 0;

  int64_t id(uint64_t at) const {
    if (index_bytes == 8) return load<int64_t>(indices.data() + at * 8);
    return load<int32_t>(indices.data() + at * 4);
  }
};

uint32_t any_flags(uint32_t word) {
  const uint32_t pooling = kPoolings[word & 3].flag | (word >> 2 & 1) * kWeighted | (word >> 3 & 1) * kDivisor;
  return pooling | (word >> 4) % kNumRules << kRuleShift;
}

void add_ids(uint32_t table, uint32_t flags, Input* input, Request* request) {
  for (uint32_t count = input->number() % 9; count > 0; --count) {
    const uint32_t word = input->number(), choice = word & 63;
    int64_t id = id_of(table % kTables, choice % kRows);
    if (choice >= 60) id = kAbsent[(word >> 6) % (sizeof kAbsent / sizeof kAbsent[0])];
    if (!request->sound) id = static_cast<int32_t>(word) >> 3;
    const auto* bytes = reinterpret_cast<const unsigned char*>(&id);
    request->indices.insert(request->indices.end(), bytes, bytes + request->index_bytes);
    if ((flags & kWeighted) != 0) request->weights.push_back(kWeights[word >> 16 & 3]);
  }
}

// The ids and weights of a request's first bag, again and again.
void add_copies(Request* request) {
  const std::vector<unsigned char> ids = request->indices;
  const std::vector<float> weights = request->weights;
  while (!ids.empty() && request->indices.size() < kManyIds * request->index_bytes) {
    request->indices.insert(request->indices.end(), ids.begin(), ids.end());
    request->weights.insert(request->weights.end(), weights.begin(), weights.end());
  }
}

void spoil(Input* input, Request* request) {
  for (uint32_t& offset : request->offsets) offset ^= input->number() & 3;
  request->indices.resize(request->indices.size() - std::min<size_t>(request->indices.size(), input->number() % 5));
  request->weights_bytes -= std::min<uint64_t>(request->weights_bytes, input->number() % 5);
  for (uint32_t& field : request->segments) {
    const uint32_t word = input->number();
    field ^= word & 1 ? word >> (word >> 1 & 31) : 0;
  }
  request->out_length += input->number() % 3;
}

Request read_request(Input input) {
  const uint32_t shape = input.number();
  Request request;
  request.sound = (shape & 16) != 0;
  request.index_bytes = (shape & 8) != 0 ? 8 : 4;
  const bool many = (shape >> 8 & 31) == 31;
  for (uint32_t s = shape & 7; s > 0; --s) {
    const uint32_t word = input.number(), table = word % (request.sound ? kTables : kTables + 2), bags = word >> 8 & 7;
    const uint32_t flags = request.sound ? any_flags(word >> 16) : word >> 16 & 31;
    request.segments.insert(request.segments.end(), {table, 0, 1, bags, flags});
    request.out_length += static_cast<uint64_t>(bags) * (dim_of(table) + ((flags & kDivisor) != 0 ? 1 : 0));
    for (uint32_t b = 0; b < bags; ++b) {
      add_ids(table, flags, &input, &request);
      if (many && request.offsets.size() == 1) add_copies(&request);
      request.offsets.push_back(static_cast<uint32_t>(request.indices.size() / request.index_bytes));
    }
  }
  request.weights_bytes = request.weights.size() * sizeof(float);
  if (!request.sound) spoil(&input, &request);
  return request;
}

// What a rule makes of an id.
struct Found {
  enum { kRefused, kSkipped, kTableRow, kVector } what;
  uint32_t row = 0;
  float value = 0;  // of the vector
  bool unseen = false;
};

Found find(uint32_t table, const RuleOfIds& rule, int64_t id) {
  if (rule.padding_id == id) return {Found::kSkipped};
  const std::vector<int64_t>& ids = plain_table(table).ids;
  const auto at = std::find(ids.begin(), ids.end(), id);
  if (at != ids.end()) return {Found::kTableRow, static_cast<uint32_t>(at - ids.begin())};
  switch (rule.policy) {
    case UnseenPolicy::kReject: return {Found::kRefused};
    case UnseenPolicy::kSkip: return {Found::kSkipped, 0, 0, true};
    case UnseenPolicy::kHash: return {Found::kTableRow, static_cast<uint32_t>(mix64(static_cast<uint64_t>(id)) % rule.buckets), 0, true};
    case UnseenPolicy::kRow: break;
  }
  if (rule.row.has_value()) return {Found::kTableRow, static_cast<uint32_t>(*rule.row), 0, true};
  return {Found::kVector, 0, rule.has_vector ? kDefault : 0, true};
}

// A bag as it is built up, in float64.
struct Bag {
  uint32_t flags;
  uint64_t count = 0;
  double weights = 0;
  std::vector<double> sums, sizes, largest;  // sizes: sums of magnitudes, to which errors are held

  Bag(uint32_t with, uint32_t dim) : flags(with), sums(dim), sizes(dim), largest(dim) {}

  void add(uint32_t table, const Found& found, double weight) {
    const double* const row = plain_table(table).values.data() + found.row * sums.size();
    for (uint32_t d = 0; d < sums.size(); ++d) {
      const double value = weight * (found.what == Found::kVector ? found.value : row[d]);
      sums[d] += value;
      sizes[d] += std::abs(value);
      largest[d] = count == 0 ? value : std::max(largest[d], value);
    }
    ++count;
    weights += weight;
  }

  double divisor() const { return (flags & kWeightedMean) != 0 ? weights : static_cast<double>(count); }

  // Returns what follows this bag in the output; aborts when the output is another.
  const float* check(const float* out) const {
    const bool divided = (flags & (kMean | kWeightedMean)) != 0 && (flags & kDivisor) == 0;
    const double by = divided ? divisor() : 1;
    for (uint32_t d = 0; d < sums.size(); ++d) {
      const double want = (flags & kMax) != 0 ? largest[d] : by == 0 ? 0 : sums[d] / by;
      const double size = (flags & kMax) != 0 ? sizes[d] : by == 0 ? 0 : sizes[d] / std::abs(by);
      if (!(std::abs(*out++ - want) <= 1e-4 * size + 1e-12)) std::abort();
    }
    if ((flags & kDivisor) != 0 && *out++ != static_cast<float>(divisor())) std::abort();
    return out;
  }
};

// The plain loop over a request that was not refused for its form.
void check(const Request& request, const PoolStatus& status, const float* out, std::vector<uint64_t>* unseen) {
  uint64_t bag = 0, next_weight = 0;
  for (uint32_t s = 0; s < request.segments.size() / kSegmentFields; ++s) {
    const uint32_t* const segment = request.segments.data() + s * kSegmentFields;
    const uint32_t table = segment[0], flags = segment[4], first = request.offsets[bag];
    for (uint32_t b = 0; b < segment[3]; ++b, ++bag) {
      Bag pooled(flags, dim_of(table));
      for (uint32_t at = request.offsets[bag]; at < request.offsets[bag + 1]; ++at) {
        const Found found = find(table, kRules[flags >> kRuleShift], request.id(at));
        if (found.what == Found::kRefused) {
          const bool same = status.status != nullptr && status.segment == s && status.bag == b && status.position == at - first;
          if (!same || status.value != request.id(at)) std::abort();
          return;
        }
        const float weight = (flags & kWeighted) != 0 ? request.weights[next_weight++] : 1;
        (*unseen)[table] += found.unseen ? 1 : 0;
        if (found.what != Found::kSkipped) pooled.add(table, found, weight);
      }
      if (status.status == nullptr) out = pooled.check(out);
    }
  }
  if (status.status != nullptr) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Tables tables;
  const Request read = read_request({data, size});
  std::vector<float> out(read.out_length);
  PoolRequest request{};
  request.segments = reinterpret_cast<const unsigned char*>(read.segments.data()), request.segments_bytes = read.segments.size() * 4;
  request.index_bytes = read.index_bytes;
  request.indices = read.indices.data(), request.indices_bytes = read.indices.size();
  request.offsets = reinterpret_cast<const unsigned char*>(read.offsets.data()), request.offsets_bytes = read.offsets.size() * 4;
  request.weights = reinterpret_cast<const unsigned char*>(read.weights.data()), request.weights_bytes = read.weights_bytes;
  request.out = out.data(), request.out_length = out.size();
  const PoolStatus status = tables.engine.pool(request, 1);
  const bool refused_id = status.status != nullptr && std::strcmp(status.status, "index_out_of_range") == 0;
  if (status.status != nullptr && !refused_id) {
    if (read.sound) std::abort();
    return 0;
  }
  std::vector<uint64_t> expected = tables.unseen;
  check(read, status, out.data(), &expected);
  for (const UnseenCount& counted : tables.engine.unseen()) tables.unseen[counted.table] = counted.count;
  // Of a request that is refused, ids behind the one that was may be counted.
  if (!refused_id && tables.unseen != expected) std::abort();
  return 0;
}
