// libFuzzer target: any bytes as a key index, asked for any keys by every kernel. A row of the table is found, or none; what a sound
// builder makes of the same keys finds each of them.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/kernel_table.h"
#include "tables/key_index.h"

namespace {

using namespace terabag;

constexpr uint32_t kDim = 4;

// The rows of a table of zeros and of so many ids, in bags of one; whether each was found.
bool pool(const KeyIndex& index, uint64_t num_rows, const std::vector<uint64_t>& keys, RowFormat format) {
  const std::vector<unsigned char> rows(num_rows * bytes_per_row(format, kDim));
  std::vector<uint32_t> offsets(keys.size() + 1);
  for (uint32_t bag = 0; bag <= keys.size(); ++bag) offsets[bag] = bag;
  std::vector<float> out(keys.size() * kDim);
  BagJob job{};
  job.rows = rows.data();
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16) return 0;
  uint64_t num_rows, seed;
  std::memcpy(&num_rows, data, 8);
  std::memcpy(&seed, data + 8, 8);
  num_rows = num_rows % 64 + 1;
  // Copied to its length, so that a read behind the last bucket is found.
  const std::vector<unsigned char> buckets(data + 16, data + 16 + (size - 16) / kBucketBytes * kBucketBytes);
  const uint64_t num_buckets = buckets.size() / kBucketBytes;
  std::vector<uint64_t> keys;
  for (size_t at = 0; at + 8 <= size; at += 8) {
    keys.emplace_back();
    std::memcpy(&keys.back(), data + at, 8);
  }
  // Of few ids rows go in bursts, of many one by one.
  std::vector<uint64_t> many;
  while (many.size() < 1100) many.insert(many.end(), keys.begin(), keys.end());
  const RowFormat format = seed % 2 == 0 ? RowFormat::kFp32 : RowFormat::kInt8;
  if (num_buckets > 0) {
    const KeyIndex index{buckets.data(), num_buckets, seed % num_buckets + 1, seed};
    for (const uint64_t key : keys) {
      const uint64_t row = find_row(index, key, num_rows);
      if (row != kNoRow && row >= num_rows) std::abort();
    }
    pool(index, num_rows, keys, format);
    pool(index, num_rows, many, format);
    check_key_index(index, num_rows);
    KeysByRow by_row(num_rows, "/tmp", 8);
    by_row.add(buckets.data(), num_buckets);
    uint64_t sorted[64], written;
    by_row.next(reinterpret_cast<unsigned char*>(sorted), 64, &written);
  }
  KeyIndexBuilder builder(keys.size(), "/tmp", seed % 3 == 0 ? KeyIndexBuilder::kRangeKeys : 7);
  if (builder.add(reinterpret_cast<const unsigned char*>(keys.data()), keys.size()) != KeyIndexStatus::kOk) std::abort();
  KeyIndexStatus status = KeyIndexStatus::kOk;
  for (bool done = false; !done && status == KeyIndexStatus::kOk;) status = builder.count_range(&done);
  // Keys that are there twice, or made for these seeds.
  if (status != KeyIndexStatus::kOk) return 0;
  std::vector<unsigned char> built(builder.num_buckets() * kBucketBytes);
  for (uint64_t at = 0, written = 1; written > 0; at += written) {
    if (builder.place(built.data() + at * kBucketBytes, builder.num_buckets() - at, &written) != KeyIndexStatus::kOk) std::abort();
  }
  const KeyIndex index{built.data(), builder.num_buckets(), homes_of(keys.size()), builder.seed()};
  if (check_key_index(index, keys.size()).fault != KeyIndexFault::kNone) std::abort();
  if (!pool(index, keys.size(), keys, format) || !pool(index, keys.size(), many, format)) std::abort();
  return 0;
}
