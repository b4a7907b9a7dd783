#include "tables/key_index.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace terabag {
namespace {

// Keys that do not fit with so many seeds were made for that.
constexpr uint64_t kSeeds = 16;
// Up to so many keys of one home are compared each with each.
constexpr uint64_t kFewKeys = 16;

void store(unsigned char* to, uint64_t value) { std::memcpy(to, &value, sizeof value); }

bool is_unused(const unsigned char* bucket, uint32_t slot) {
  return load<uint64_t>(bucket + slot * 8) == ~0ull && bucket[kHighRowsAt + slot] == 0xff;
}

bool is_unused_behind(const unsigned char* bucket, uint32_t used) {
  for (uint32_t slot = used; slot < kBucketKeys; ++slot) {
    if (!is_unused(bucket, slot)) return false;
  }
  return true;
}

}  // namespace

bool sound_key_index(uint64_t num_keys, uint64_t num_buckets) {
  return num_keys >= 1 && num_keys <= kMaxKeys && num_buckets >= homes_of(num_keys) && num_buckets - homes_of(num_keys) <= kMaxReach;
}

BucketKeys keys_of_bucket(const KeyIndex& index, const unsigned char* bucket, uint64_t number) {
  const SlotLayout layout(index.homes);
  BucketKeys keys;
  for (; keys.count < kBucketKeys && !is_unused(bucket, keys.count); ++keys.count) {
    const auto word = load<uint64_t>(bucket + keys.count * 8);
    const uint64_t distance = word >> layout.row_bits & kUnused;
    // A home before the first bucket is none; one behind the last home is none either, and has no key that is found.
    if (distance > kMaxReach || distance > number || number - distance >= index.homes) return {};
    const KeyPlace place{number - distance, word & layout.place << kDistanceBits};
    keys.held[keys.count] = {key_at(place, index.seed, index.homes), row_of_slot(bucket, keys.count, layout)};
  }
  keys.sound = true;
  return keys;
}

KeyIndexReport check_key_index(const KeyIndex& index, uint64_t num_keys) {
  std::vector<bool> seen(num_keys);
  uint64_t found = 0;
  for (uint64_t b = 0; b < index.num_buckets; ++b) {
    const unsigned char* bucket = index.buckets + b * kBucketBytes;
    const BucketKeys keys = keys_of_bucket(index, bucket, b);
    if (!keys.sound) return {KeyIndexFault::kPlace, b};
    if (!is_unused_behind(bucket, keys.count) || bucket[kReachAt] > kMaxReach) return {KeyIndexFault::kSlots, b};
    for (uint32_t slot = 0; slot < keys.count; ++slot) {
      const auto [key, row] = keys.held[slot];
      if (row >= num_keys) return {KeyIndexFault::kRow, b};
      if (seen[row]) return {KeyIndexFault::kRowTwice, b};
      seen[row] = true;
      // Of a key that is there twice, the second row is not found; nor is a remainder that no key of its home has.
      if (find_row(index, key, num_keys) != row) return {KeyIndexFault::kPlace, b};
    }
    found += keys.count;
  }
  return {found == num_keys ? KeyIndexFault::kNone : KeyIndexFault::kCount, index.num_buckets};
}

KeyIndexBuilder::KeyIndexBuilder(uint64_t num_keys, std::string directory, uint64_t range_keys)
    : num_keys_(num_keys),
      homes_(homes_of(num_keys)),
      range_homes_((homes_ + (num_keys - 1) / range_keys) / ((num_keys - 1) / range_keys + 1)),
      // Random homes do not get near it.
      most_in_range_(num_keys <= range_keys ? num_keys : 2 * range_keys + SpilledKeys::kPieceEntries),
      directory_(std::move(directory)) {
  keys_.emplace(homes_, range_homes_, directory_);
}

void KeyIndexBuilder::rewind() {
  if (num_ranges() > 1 || next_range_ == 0) {
    loaded_.clear();
    next_range_ = end_home_ = 0;
  }
  waiting_.clear();
  window_.clear();
  next_ = bucket_ = first_waiting_ = window_start_ = 0;
}

KeyIndexStatus KeyIndexBuilder::add(const unsigned char* keys, uint64_t count) {
  if (count > num_keys_ - added_) return KeyIndexStatus::kWrongCount;
  for (uint64_t k = 0; k < count; ++k) {
    if (!keys_->put(entry_of(load<uint64_t>(keys + k * 8), static_cast<uint32_t>(added_ + k)))) return KeyIndexStatus::kSpill;
  }
  added_ += count;
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::next_seed() {
  if (++seed_ == kSeeds) return KeyIndexStatus::kUnplaceable;
  SpilledKeys before(std::move(*keys_));
  keys_.emplace(homes_, range_homes_, directory_);
  next_range_ = 0;
  rewind();
  return before.for_each([this](const Entry& entry) { return keys_->put(entry_of(entry.key, entry.row)); }) ? KeyIndexStatus::kOk
                                                                                                            : KeyIndexStatus::kSpill;
}

KeyIndexStatus KeyIndexBuilder::count_range(bool* done) {
  *done = false;
  if (added_ != num_keys_) return KeyIndexStatus::kWrongCount;
  KeyIndexStatus status = load_range();
  while (status == KeyIndexStatus::kOk && in_work()) {
    if (!place_bucket<false>()) status = KeyIndexStatus::kUnplaceable;
  }
  if (status == KeyIndexStatus::kUnplaceable) return next_seed();
  if (status != KeyIndexStatus::kOk || !placed_all()) return status;
  num_buckets_ = bucket_;
  *done = true;
  rewind();
  return status;
}

KeyIndexStatus KeyIndexBuilder::place(unsigned char* out, uint64_t room, uint64_t* written) {
  while (!placed_all() && bucket_ - window_start_ < room + kMaxReach) {
    if (!in_work()) {
      const KeyIndexStatus status = load_range();
      if (status != KeyIndexStatus::kOk) return status;
    }
    if (!place_bucket<true>()) return KeyIndexStatus::kUnplaceable;
  }
  const uint64_t settled = bucket_ - window_start_ - (placed_all() ? 0 : kMaxReach);
  *written = std::min(settled, room);
  const auto end = window_.begin() + static_cast<int64_t>(*written * kBucketBytes);
  std::copy(window_.begin(), end, out);
  window_.erase(window_.begin(), end);
  window_start_ += *written;
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::load_range() {
  const uint64_t range = next_range_, first_home = range * range_homes_, num_homes = std::min(range_homes_, homes_ - first_home);
  loaded_.clear();
  next_ = 0;
  const std::vector<Entry>* entries = nullptr;
  if (!keys_->read(range, most_in_range_, &entries)) return KeyIndexStatus::kSpill;
  const KeyIndexStatus status = sort_into_loaded(*entries, first_home, num_homes);
  end_home_ = first_home + num_homes;
  ++next_range_;
  // What does not fit in memory has too many keys of some homes, unless a key is there twice.
  return status == KeyIndexStatus::kOk && keys_->size(range) > most_in_range_ ? KeyIndexStatus::kUnplaceable : status;
}

KeyIndexStatus KeyIndexBuilder::sort_into_loaded(const std::vector<Entry>& unsorted, uint64_t first_home, uint64_t num_homes) {
  ends_.assign(num_homes + 1, 0);
  for (const Entry& entry : unsorted) ++ends_[entry.place - first_home + 1];
  for (uint64_t h = 0; h < num_homes; ++h) ends_[h + 1] += ends_[h];
  loaded_.resize(unsorted.size());
  // From here on ends_[h] is where the next key of home h goes, and at last where those of h end.
  for (const Entry& entry : unsorted) loaded_[ends_[entry.place - first_home]++] = entry;
  uint64_t from = 0;
  for (uint64_t h = 0; h < num_homes; ++h) {
    const uint64_t to = ends_[h];
    const auto of_home = [this](uint64_t at) { return loaded_.begin() + static_cast<int64_t>(at); };
    const auto by_row = [](const Entry& a, const Entry& b) { return a.row < b.row; };
    if (!std::is_sorted(of_home(from), of_home(to), by_row)) std::sort(of_home(from), of_home(to), by_row);
    const KeyIndexStatus status = refuse_duplicates(from, to);
    if (status != KeyIndexStatus::kOk) return status;
    from = to;
  }
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::refuse_duplicates(uint64_t from, uint64_t to) {
  const auto refuse = [this](const Entry& one, const Entry& other) {
    duplicate_ = {one.key, std::min(one.row, other.row), std::max(one.row, other.row)};
    return KeyIndexStatus::kDuplicate;
  };
  if (to - from <= kFewKeys) {
    for (uint64_t a = from; a < to; ++a) {
      for (uint64_t b = a + 1; b < to; ++b) {
        if (loaded_[a].key == loaded_[b].key) return refuse(loaded_[a], loaded_[b]);
      }
    }
    return KeyIndexStatus::kOk;
  }
  std::vector<Entry> by_key(loaded_.begin() + static_cast<int64_t>(from), loaded_.begin() + static_cast<int64_t>(to));
  std::sort(by_key.begin(), by_key.end(), [](const Entry& a, const Entry& b) { return a.key != b.key ? a.key < b.key : a.row < b.row; });
  const auto twice = std::adjacent_find(by_key.begin(), by_key.end(), [](const Entry& a, const Entry& b) { return a.key == b.key; });
  return twice == by_key.end() ? KeyIndexStatus::kOk : refuse(twice[0], twice[1]);
}

template <bool kWrite>
bool KeyIndexBuilder::place_bucket() {
  const uint64_t home = bucket_++;
  if constexpr (kWrite) window_.resize((bucket_ - window_start_) * kBucketBytes, 0xff);
  unsigned char* const bucket = kWrite ? written_bucket(home) : nullptr;
  if constexpr (kWrite) bucket[kReachAt] = 0;
  const SlotLayout layout(homes_);
  uint32_t count = 0;
  const auto put = [&](const Entry& entry, uint64_t distance) {
    if constexpr (kWrite) {
      const uint64_t begin = place_of(entry.key, seed_, homes_).remainder | distance << layout.row_bits;
      store(bucket + count * 8, begin | (entry.row & ~layout.place));
      bucket[kHighRowsAt + count] = static_cast<unsigned char>(entry.row >> layout.row_bits);
    }
    ++count;
  };
  for (; next_ < loaded_.size() && loaded_[next_].place == home; ++next_) {
    if (count < kBucketKeys) {
      put(loaded_[next_], 0);
    } else {
      waiting_.push_back(loaded_[next_]);
    }
  }
  for (; count < kBucketKeys && first_waiting_ < waiting_.size(); ++first_waiting_) {
    const Entry& entry = waiting_[first_waiting_];
    const uint64_t distance = home - entry.place;
    if (distance > kMaxReach) return false;
    put(entry, distance);
    if constexpr (kWrite) written_bucket(entry.place)[kReachAt] = static_cast<unsigned char>(distance);
  }
  if (first_waiting_ == waiting_.size()) {
    waiting_.clear();
    first_waiting_ = 0;
  }
  return true;
}

KeysByRow::KeysByRow(uint64_t num_keys, uint64_t seed, std::string directory, uint64_t range_keys)
    : num_keys_(num_keys), seed_(seed), range_keys_(range_keys), keys_(num_keys, range_keys, std::move(directory)) {}

KeyIndexStatus KeysByRow::add(const unsigned char* buckets, uint64_t count) {
  const KeyIndex index{nullptr, 0, homes_of(num_keys_), seed_};
  for (uint64_t b = 0; b < count; ++b) {
    const BucketKeys keys = keys_of_bucket(index, buckets + b * kBucketBytes, bucket_++);
    if (!keys.sound || keys.count > num_keys_ - added_) return KeyIndexStatus::kWrongCount;
    for (uint32_t slot = 0; slot < keys.count; ++slot) {
      const auto [key, row] = keys.held[slot];
      if (row >= num_keys_) return KeyIndexStatus::kWrongCount;
      if (!keys_.put({key, static_cast<uint32_t>(row), static_cast<uint32_t>(row)})) return KeyIndexStatus::kSpill;
    }
    added_ += keys.count;
  }
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeysByRow::next(unsigned char* out, uint64_t room, uint64_t* written) {
  *written = 0;
  if (added_ != num_keys_) return KeyIndexStatus::kWrongCount;
  while (*written < room && given_ < num_keys_) {
    if (given_ == next_range_ * range_keys_) {
      const KeyIndexStatus status = load_range();
      if (status != KeyIndexStatus::kOk) return status;
    }
    const uint64_t at = given_ - (next_range_ - 1) * range_keys_, some = std::min(room - *written, loaded_.size() - at);
    std::memcpy(out + *written * 8, loaded_.data() + at, some * 8);
    *written += some;
    given_ += some;
  }
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeysByRow::load_range() {
  const uint64_t first = next_range_ * range_keys_, count = std::min(range_keys_, num_keys_ - first);
  // As many keys as rows, of which each has one: none is missing then.
  if (keys_.size(next_range_) != count) return KeyIndexStatus::kWrongCount;
  const std::vector<KeyEntry>* entries = nullptr;
  if (!keys_.read(next_range_, UINT64_MAX, &entries)) return KeyIndexStatus::kSpill;
  loaded_.resize(count);
  seen_.assign(count, false);
  for (const KeyEntry& entry : *entries) {
    if (seen_[entry.row - first]) return KeyIndexStatus::kWrongCount;
    seen_[entry.row - first] = true;
    loaded_[entry.row - first] = entry.key;
  }
  ++next_range_;
  return KeyIndexStatus::kOk;
}

}  // namespace terabag
