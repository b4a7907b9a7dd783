// libFuzzer target: any bytes as a key index, asked for any keys by every kernel. A row of the table is found, or none; what a sound
// builder makes of the same keys finds each of them, and what is left of it when bytes of it change is either refused or finds each of its.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/kernel_table.h"
#include "tables/key_index.h"

namespace {

using namespace terabag;

constexpr uint32_t kDim = 4;
constexpr uint64_t kMostRows = 64;
constexpr size_t kMostBytes = 4096;
// Of few ids rows go in bursts, of so many one by one.
constexpr size_t kManyIds = 1100;

// What the first bytes of an input choose, beside the numbers of an index: paths that cost much are taken by few inputs.
struct Choice {
  uint64_t word;
  RowFormat format() const { return (word & 1) != 0 ? RowFormat::kInt8 : RowFormat::kFp32; }
  bool asks_many() const { return (word >> 1 & 31) == 31; }
  bool builds_in_ranges() const { return (word >> 6 & 63) == 63; }
  bool reads_in_ranges() const { return (word >> 12 & 63) == 63; }
};

// The rows of a table of zeros and of so many ids, in bags of one; whether each was found.
bool pool(const KeyIndex& index, uint64_t num_rows, const std::vector<uint64_t>& keys, RowFormat format) {
  static const std::vector<unsigned char> rows(kMostBytes * bytes_per_row(RowFormat::kFp32, kDim));
  static std::vector<uint32_t> offsets;
  static std::vector<float> out;
  while (offsets.size() <= keys.size()) offsets.push_back(static_cast<uint32_t>(offsets.size()));
  out.resize(std::max(out.size(), keys.size() * kDim));
  BagJob job{};
  // The table's last row is the last of the memory, so that a read behind it is found.
  job.rows = rows.data() + rows.size() - num_rows * bytes_per_row(format, kDim);
  job.num_rows = num_rows;
  job.row_pitch = bytes_per_row(format, kDim);
  job.keys = &index;
  job.dim = kDim;
  job.format = format;
  job.indices = reinterpret_cast<const unsigned char*>(keys.data());
  job.index_bytes = 8;
  job.offsets = offsets.data();
  job.num_bags = static_cast<uint32_t>(keys.size());
  job.out = out.data();
  BadIndex bad{};
  return selected_kernels()->pool_bags(&job, 1, &bad) == KernelStatus::kOk;
}

std::vector<uint64_t> many_of(const std::vector<uint64_t>& keys) {
  std::vector<uint64_t> many;
  while (many.size() < kManyIds) many.insert(many.end(), keys.begin(), keys.end());
  return many;
}

void ask(const KeyIndex& index, uint64_t num_rows, const std::vector<uint64_t>& keys, Choice choice) {
  for (const uint64_t key : keys) {
    const uint64_t row = find_row(index, key, num_rows);
    if (row != kNoRow && row >= num_rows) std::abort();
  }
  pool(index, num_rows, keys, choice.format());
  if (choice.asks_many()) pool(index, num_rows, many_of(keys), choice.format());
}

// An index that is found to be sound gives every row once, to the key that it lies beside.
void check(const KeyIndex& index, uint64_t num_rows, Choice choice) {
  const bool sound = check_key_index(index, num_rows).fault == KeyIndexFault::kNone;
  KeysByRow by_row(num_rows, index.seed, "/tmp", choice.reads_in_ranges() ? 8 : KeyIndexBuilder::kRangeKeys);
  const bool added = by_row.add(index.buckets, index.num_buckets) == KeyIndexStatus::kOk;
  std::vector<uint64_t> keys(num_rows);
  uint64_t written = 0;
  const bool read = added && by_row.next(reinterpret_cast<unsigned char*>(keys.data()), num_rows, &written) == KeyIndexStatus::kOk;
  // An index of so many keys has as many homes.
  if (!sound || index.homes != homes_of(num_rows)) return;
  if (!read || written != num_rows) std::abort();
  for (uint64_t row = 0; row < num_rows; ++row) {
    if (find_row(index, keys[row], num_rows) != row) std::abort();
  }
  if (!pool(index, num_rows, keys, choice.format())) std::abort();
}

// Empty when the builder refuses the keys: they are there twice, or made for its seeds.
std::vector<unsigned char> build(KeyIndexBuilder* builder, const std::vector<uint64_t>& keys) {
  if (builder->add(reinterpret_cast<const unsigned char*>(keys.data()), keys.size()) != KeyIndexStatus::kOk) std::abort();
  KeyIndexStatus status = KeyIndexStatus::kOk;
  for (bool done = false; !done && status == KeyIndexStatus::kOk;) status = builder->count_range(&done);
  if (status != KeyIndexStatus::kOk) return {};
  std::vector<unsigned char> built(builder->num_buckets() * kBucketBytes);
  for (uint64_t at = 0, written = 1; written > 0; at += written) {
    if (builder->place(built.data() + at * kBucketBytes, builder->num_buckets() - at, &written) != KeyIndexStatus::kOk) std::abort();
  }
  return built;
}

void check_builder(const std::vector<uint64_t>& keys, Choice choice) {
  KeyIndexBuilder builder(keys.size(), "/tmp", choice.builds_in_ranges() ? 7 : KeyIndexBuilder::kRangeKeys);
  std::vector<unsigned char> built = build(&builder, keys);
  if (built.empty()) return;
  const KeyIndex index{built.data(), builder.num_buckets(), homes_of(keys.size()), builder.seed()};
  if (check_key_index(index, keys.size()).fault != KeyIndexFault::kNone) std::abort();
  if (!pool(index, keys.size(), keys, choice.format())) std::abort();
  if (choice.asks_many() && !pool(index, keys.size(), many_of(keys), choice.format())) std::abort();
  // Changed at up to three places that the keys name, by what they say.
  for (size_t change = 0; change <= choice.word % 3 && change < keys.size(); ++change) {
    const uint64_t word = keys[change];
    built[(word & 0xffffff) % built.size()] ^= static_cast<unsigned char>(word >> 24);
  }
  ask(index, keys.size(), keys, choice);
  check(index, keys.size(), choice);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16) return 0;
  size = std::min(size, kMostBytes);
  uint64_t num_rows, seed;
  std::memcpy(&num_rows, data, 8);
  std::memcpy(&seed, data + 8, 8);
  const Choice choice{num_rows >> 8};
  num_rows = num_rows % kMostRows + 1;
  // Copied to its length, so that a read behind the last bucket is found.
  const std::vector<unsigned char> buckets(data + 16, data + 16 + (size - 16) / kBucketBytes * kBucketBytes);
  const uint64_t num_buckets = buckets.size() / kBucketBytes;
  std::vector<uint64_t> keys(size / 8);
  std::memcpy(keys.data(), data, keys.size() * 8);
  if (num_buckets >= kFewestHomes) {
    const KeyIndex index{buckets.data(), num_buckets, kFewestHomes + seed % (num_buckets - kFewestHomes + 1), seed};
    ask(index, num_rows, keys, choice);
    check(index, num_rows, choice);
  }
  check_builder(keys, choice);
  return 0;
}
