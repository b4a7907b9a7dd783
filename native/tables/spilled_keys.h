#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "tables/failure.h"

namespace terabag {

// A key and its row; place is what entries are sorted by, an index's home or the row itself.
struct KeyEntry {
  uint64_t key;
  uint32_t row, place;
};

// Entries in ranges of places, each in memory as far as it fits and before that in a file without a name: memory stays the same for any
// number of them. All may throw std::bad_alloc.
class SpilledKeys {
 public:
  // directory: where the file is made, if one is needed; range_places: places of a range. One range stays in memory.
  SpilledKeys(uint64_t num_places, uint64_t range_places, std::string directory);
  ~SpilledKeys();
  SpilledKeys(const SpilledKeys&) = delete;
  SpilledKeys& operator=(const SpilledKeys&) = delete;
  SpilledKeys(SpilledKeys&& other) noexcept;
  SpilledKeys& operator=(SpilledKeys&&) = delete;

  // These return false when the file cannot be written, or read again: failure().
  bool put(const KeyEntry& entry);
  // At most so many entries of a range, in any order, unless they all are in memory; valid until the next call.
  bool read(uint64_t range, uint64_t most, const std::vector<KeyEntry>** entries);
  // Gives every entry to visit, range by range.
  template <typename Visit>
  bool for_each(const Visit& visit) {
    for (const Range& range : ranges_) {
      block_.resize(kPieceEntries);
      for (const uint64_t from : range.pieces) {
        if (!read_piece(from, block_.data())) return false;
        for (const KeyEntry& entry : block_) {
          if (!visit(entry)) return false;
        }
      }
      for (const KeyEntry& entry : range.latest) {
        if (!visit(entry)) return false;
      }
    }
    return true;
  }

  uint64_t num_ranges() const { return ranges_.size(); }
  uint64_t size(uint64_t range) const { return ranges_[range].count; }
  const Failure& failure() const { return failure_; }
  static constexpr uint64_t kPieceEntries = 2048;

 private:
  struct Range {
    std::vector<uint64_t> pieces;  // where they start in the file
    std::vector<KeyEntry> latest;
    uint64_t count = 0;
  };
  bool spill(Range* range);
  bool read_piece(uint64_t from, KeyEntry* into);

  const uint64_t range_places_;
  const std::string directory_;
  std::vector<Range> ranges_;
  int file_ = -1;
  uint64_t file_bytes_ = 0;
  std::vector<KeyEntry> block_;
  Failure failure_;
};

}  // namespace terabag
