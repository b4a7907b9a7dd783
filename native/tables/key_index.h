#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/key_index.h"
#include "tables/failure.h"

namespace terabag {

constexpr uint64_t kMaxKeys = 1ull << 32;

// Whether an index of these numbers can be read: every home is one of its buckets, and behind the last home are no more than a key can
// reach.
bool sound_key_index(uint64_t num_keys, uint64_t num_buckets);

// What the bytes of an index are found to be, bucket by bucket.
enum class KeyIndexFault : uint32_t {
  kNone,
  kSlots,     // a bucket counts more keys than it has slots, or what is not used is not zero
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
  ~KeyIndexBuilder();
  KeyIndexBuilder(const KeyIndexBuilder&) = delete;
  KeyIndexBuilder& operator=(const KeyIndexBuilder&) = delete;

  // The keys of the next rows, 8 bytes each.
  KeyIndexStatus add(const unsigned char* keys, uint64_t count);
  // When all keys are added: sorts the next range, finds keys that are there twice, and counts buckets; starts again with the next seed
  // where keys do not fit within reach. *done is set after the last range: seed() and num_buckets() are right from then on.
  KeyIndexStatus count_range(bool* done);
  // Then the buckets, as many as there is room for; *written is 0 behind the last one.
  KeyIndexStatus place(unsigned char* out, uint64_t room, uint64_t* written);

  uint64_t seed() const { return seed_; }
  uint64_t num_buckets() const { return num_buckets_; }
  uint64_t num_ranges() const { return ranges_.size(); }
  struct Duplicate {
    uint64_t key, row, other_row;
  };
  const Duplicate& duplicate() const { return duplicate_; }
  const Failure& failure() const { return failure_; }

 private:
  struct Entry {
    uint64_t key;
    uint32_t row, home;
  };
  // The keys of some homes: pieces in the file, and the latest in memory.
  struct Range {
    std::vector<uint64_t> pieces;  // where they start in the file
    std::vector<Entry> latest;
    uint64_t count = 0;
  };
  static constexpr uint64_t kPieceEntries = 2048;

  void start();
  KeyIndexStatus put(const Entry& entry);
  KeyIndexStatus spill(Range* range);
  KeyIndexStatus read_piece(int file, uint64_t from, Entry* into);
  KeyIndexStatus next_seed();
  void rewind();
  // Loads and sorts the next range, behind what the one before had no bucket for.
  KeyIndexStatus load_range();
  KeyIndexStatus read_range(const Range& range, uint64_t most);
  KeyIndexStatus sort_into_loaded(const std::vector<Entry>& unsorted, uint64_t first_home, uint64_t num_homes);
  KeyIndexStatus refuse_duplicates(uint64_t from, uint64_t to);
  // Fills the buckets that are homes of what is loaded, and those behind the last home; out may be null. False when a key is out of reach.
  bool place_loaded(unsigned char* out, uint64_t room, uint64_t* written);
  void write_bucket(unsigned char* out, uint64_t count, uint64_t reach) const;
  bool loaded_all() const { return next_range_ == ranges_.size(); }
  bool in_work() const { return bucket_ < end_home_ || (loaded_all() && placed_ < loaded_.size()); }

  const uint64_t num_keys_, homes_, num_ranges_, range_homes_, most_in_range_;
  const std::string directory_;
  std::vector<Range> ranges_;
  int file_ = -1;
  uint64_t file_bytes_ = 0, added_ = 0, seed_ = 0, num_buckets_ = 0;
  Duplicate duplicate_{};
  Failure failure_;

  std::vector<Entry> unsorted_;
  std::vector<uint32_t> ends_;
  // In the order of their homes; [placed_, arrived_) wait for a bucket, the others for their home.
  std::vector<Entry> loaded_;
  uint64_t next_range_ = 0, end_home_ = 0, placed_ = 0, arrived_ = 0, bucket_ = 0;
};

}  // namespace terabag
