#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/key_index.h"
#include "tables/failure.h"
#include "tables/spilled_keys.h"

namespace terabag {

constexpr uint64_t kMaxKeys = 1ull << 32;

// Whether an index of these numbers can be read: every home is one of its buckets, and behind the last home are no more than a key can
// reach.
bool sound_key_index(uint64_t num_keys, uint64_t num_buckets);

// The keys that a bucket holds, with their rows, whatever these are. Not sound: a slot tells of a home that no index of so many homes has.
struct BucketKeys {
  struct Held {
    uint64_t key, row;
  };
  Held held[kBucketKeys];
  uint32_t count = 0;
  bool sound = false;
};
// Of bucket `number` of an index, of which homes and seed are asked.
BucketKeys keys_of_bucket(const KeyIndex& index, const unsigned char* bucket, uint64_t number);

// What the bytes of an index are found to be, bucket by bucket.
enum class KeyIndexFault : uint32_t {
  kNone,
  kSlots,     // a key behind a slot that is not used, or keys further on than any is looked for
  kRow,       // a row that the table does not have
  kRowTwice,  // two keys have one row
  kPlace,     // a key lies where nobody looks for it
  kCount,     // fewer keys than the table has rows
};
struct KeyIndexReport {
  KeyIndexFault fault = KeyIndexFault::kNone;
  uint64_t bucket = 0;
};
// Whether every row has one key, which is found; reads all of the index. num_keys is the number of rows. May throw std::bad_alloc.
KeyIndexReport check_key_index(const KeyIndex& index, uint64_t num_keys);

// What became of a step of KeyIndexBuilder.
enum class KeyIndexStatus : uint32_t {
  kOk,
  kDuplicate,    // two rows have one key: duplicate()
  kWrongCount,   // more keys are added than were announced, or fewer when they are counted
  kUnplaceable,  // with every seed that was tried, so many keys have one home that they do not fit within reach of it
  kSpill,        // what does not fit in memory cannot be written to the directory, or read again: failure()
};

// Builds the index of a table's keys, bucket after bucket. Keys beyond those of one range are spilled, by ranges of homes, into a file
// without a name, and placed range by range: memory stays the same for any number of keys. The bytes depend on the keys only, not on the
// pieces in which they are added. Not for two threads at once. All may throw std::bad_alloc.
class KeyIndexBuilder {
 public:
  // Keys of a range; they take 32 bytes each while they are sorted.
  static constexpr uint64_t kRangeKeys = 1 << 21;

  // num_keys: 1 to kMaxKeys. directory: where the file is made, if one is needed.
  KeyIndexBuilder(uint64_t num_keys, std::string directory, uint64_t range_keys = kRangeKeys);

  // The keys of the next rows, 8 bytes each.
  KeyIndexStatus add(const unsigned char* keys, uint64_t count);
  // When all keys are added: sorts the next range, finds keys that are there twice, and counts buckets; starts again with the next seed
  // where keys do not fit within reach. *done is set after the last range: seed() and num_buckets() are right from then on.
  KeyIndexStatus count_range(bool* done);
  // Then the buckets, as many as there is room for; *written is 0 behind the last one.
  KeyIndexStatus place(unsigned char* out, uint64_t room, uint64_t* written);

  uint64_t seed() const { return seed_; }
  uint64_t num_buckets() const { return num_buckets_; }
  uint64_t num_ranges() const { return keys_->num_ranges(); }
  struct Duplicate {
    uint64_t key, row, other_row;
  };
  const Duplicate& duplicate() const { return duplicate_; }
  const Failure& failure() const { return keys_->failure(); }

 private:
  using Entry = KeyEntry;  // Placed by its home.

  Entry entry_of(uint64_t key, uint32_t row) const { return {key, row, static_cast<uint32_t>(place_of(key, seed_, homes_).home)}; }
  KeyIndexStatus next_seed();
  void rewind();
  KeyIndexStatus load_range();
  KeyIndexStatus sort_into_loaded(const std::vector<Entry>& unsorted, uint64_t first_home, uint64_t num_homes);
  KeyIndexStatus refuse_duplicates(uint64_t from, uint64_t to);
  // Places keys into the next bucket. False when one is out of reach of its home.
  template <bool kWrite>
  bool place_bucket();
  unsigned char* written_bucket(uint64_t bucket) { return window_.data() + (bucket - window_start_) * kBucketBytes; }
  // Whether the next bucket needs no other range.
  bool in_work() const { return bucket_ < end_home_ || (next_range_ == num_ranges() && first_waiting_ < waiting_.size()); }
  bool placed_all() const { return bucket_ >= homes_ && first_waiting_ == waiting_.size(); }

  const uint64_t num_keys_, homes_, range_homes_, most_in_range_;
  const std::string directory_;
  std::optional<SpilledKeys> keys_;
  uint64_t added_ = 0, seed_ = 0, num_buckets_ = 0;
  Duplicate duplicate_{};

  // The range in work, in the order of homes and rows, and which of its keys is next.
  std::vector<Entry> loaded_;
  std::vector<uint32_t> ends_;
  uint64_t next_range_ = 0, end_home_ = 0, next_ = 0, bucket_ = 0;
  // Keys whose home had no room, the longest wait first.
  std::vector<Entry> waiting_;
  uint64_t first_waiting_ = 0;
  // Buckets that were placed and not given away: keys that wait change their homes.
  std::vector<unsigned char> window_;
  uint64_t window_start_ = 0;
};

// The keys of an index in the order of their rows, block after block, whatever their number. Not for two threads at once. All may throw
// std::bad_alloc.
class KeysByRow {
 public:
  KeysByRow(uint64_t num_keys, uint64_t seed, std::string directory, uint64_t range_keys = KeyIndexBuilder::kRangeKeys);

  // The next buckets of the index. kWrongCount: a bucket or row that no index of so many keys has, or more keys than that.
  KeyIndexStatus add(const unsigned char* buckets, uint64_t count);
  // When all are added, the keys of the next rows, 8 bytes each; *written is 0 behind the last. kWrongCount: a row without a key, or with
  // two.
  KeyIndexStatus next(unsigned char* out, uint64_t room, uint64_t* written);

  const Failure& failure() const { return keys_.failure(); }

 private:
  KeyIndexStatus load_range();

  const uint64_t num_keys_, seed_, range_keys_;
  SpilledKeys keys_;
  uint64_t added_ = 0, bucket_ = 0, next_range_ = 0, given_ = 0;
  std::vector<uint64_t> loaded_;  // by row, from range (next_range_ - 1) * range_keys_ on
  std::vector<bool> seen_;
};

}  // namespace terabag
