#include "tables/key_index.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace terabag {
namespace {

// Keys that do not fit with so many seeds were made for that.
constexpr uint64_t kSeeds = 16;
// Up to so many keys of one home are compared each with each.
constexpr uint64_t kFewKeys = 16;

void store(unsigned char* to, uint64_t value) { std::memcpy(to, &value, sizeof value); }
void store(unsigned char* to, uint32_t value) { std::memcpy(to, &value, sizeof value); }

// A file that goes with its descriptor, even when the process is killed.
int open_unnamed(const std::string& directory) {
  std::string path = directory + "/.key-index-XXXXXX";
  const int file = mkstemp(path.data());
  if (file >= 0) unlink(path.c_str());
  return file;
}

// 0, or an errno.
template <typename Bytes, typename Transfer>
int transfer_all(Bytes* bytes, uint64_t length, uint64_t from, const Transfer& transfer) {
  while (length > 0) {
    const ssize_t done = transfer(bytes, length, static_cast<off_t>(from));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done == 0 ? EIO : errno;
    bytes += done;
    from += static_cast<uint64_t>(done);
    length -= static_cast<uint64_t>(done);
  }
  return 0;
}

bool unused_is_zero(const unsigned char* bucket, uint32_t count) {
  for (uint32_t at = count * 8; at < kRowsAt; ++at) {
    if (bucket[at] != 0) return false;
  }
  for (uint32_t at = kRowsAt + count * 4; at < kCountAt; ++at) {
    if (bucket[at] != 0) return false;
  }
  return bucket[62] == 0 && bucket[63] == 0;
}

}  // namespace

bool sound_key_index(uint64_t num_keys, uint64_t num_buckets) {
  return num_keys >= 1 && num_keys <= kMaxKeys && num_buckets >= homes_of(num_keys) && num_buckets - homes_of(num_keys) <= kMaxReach;
}

KeyIndexReport check_key_index(const KeyIndex& index, uint64_t num_keys) {
  std::vector<bool> seen(num_keys);
  uint64_t found = 0;
  for (uint64_t b = 0; b < index.num_buckets; ++b) {
    const unsigned char* bucket = index.buckets + b * kBucketBytes;
    const uint32_t count = bucket[kCountAt];
    if (count > kBucketKeys || !unused_is_zero(bucket, count)) return {KeyIndexFault::kSlots, b};
    for (uint32_t slot = 0; slot < count; ++slot) {
      const uint64_t row = load<uint32_t>(bucket + kRowsAt + slot * 4), key = load<uint64_t>(bucket + slot * 8);
      if (row >= num_keys) return {KeyIndexFault::kRow, b};
      if (seen[row]) return {KeyIndexFault::kRowTwice, b};
      seen[row] = true;
      // Of a key that is there twice, the second row is not found.
      if (find_row(index, key, num_keys) != row) return {KeyIndexFault::kPlace, b};
    }
    found += count;
  }
  return {found == num_keys ? KeyIndexFault::kNone : KeyIndexFault::kCount, index.num_buckets};
}

KeyIndexBuilder::KeyIndexBuilder(uint64_t num_keys, std::string directory, uint64_t range_keys)
    : num_keys_(num_keys),
      homes_(homes_of(num_keys)),
      num_ranges_((num_keys + range_keys - 1) / range_keys),
      range_homes_((homes_ + num_ranges_ - 1) / num_ranges_),
      // Random homes do not get near it.
      most_in_range_(num_ranges_ == 1 ? num_keys : 2 * range_keys + kPieceEntries),
      directory_(std::move(directory)) {
  start();
}

KeyIndexBuilder::~KeyIndexBuilder() {
  if (file_ >= 0) close(file_);
}

void KeyIndexBuilder::start() {
  ranges_.assign((homes_ + range_homes_ - 1) / range_homes_, {});
  for (Range& range : ranges_) range.latest.reserve(ranges_.size() == 1 ? num_keys_ : kPieceEntries);
  file_ = -1;
  file_bytes_ = 0;
  rewind();
}

void KeyIndexBuilder::rewind() {
  loaded_.clear();
  next_range_ = end_home_ = placed_ = arrived_ = bucket_ = 0;
}

KeyIndexStatus KeyIndexBuilder::add(const unsigned char* keys, uint64_t count) {
  if (count > num_keys_ - added_) return KeyIndexStatus::kWrongCount;
  for (uint64_t k = 0; k < count; ++k) {
    const auto key = load<uint64_t>(keys + k * 8);
    const auto home = static_cast<uint32_t>(home_of(key, seed_, homes_));
    const KeyIndexStatus status = put({key, static_cast<uint32_t>(added_ + k), home});
    if (status != KeyIndexStatus::kOk) return status;
  }
  added_ += count;
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::put(const Entry& entry) {
  Range& range = ranges_.size() == 1 ? ranges_[0] : ranges_[entry.home / static_cast<uint32_t>(range_homes_)];
  range.latest.push_back(entry);
  ++range.count;
  return ranges_.size() > 1 && range.latest.size() == kPieceEntries ? spill(&range) : KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::spill(Range* range) {
  if (file_ < 0) file_ = open_unnamed(directory_);
  const uint64_t bytes = range->latest.size() * sizeof(Entry);
  const auto write = [this](const unsigned char* from, size_t length, off_t at) { return pwrite(file_, from, length, at); };
  const int failed =
      file_ < 0 ? errno : transfer_all(reinterpret_cast<const unsigned char*>(range->latest.data()), bytes, file_bytes_, write);
  if (failed != 0) {
    failure_ = {"keys that wait to be sorted cannot be written to " + directory_ + ": " + std::strerror(failed), failed};
    return KeyIndexStatus::kSpill;
  }
  range->pieces.push_back(file_bytes_);
  file_bytes_ += bytes;
  range->latest.clear();
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::read_piece(int file, uint64_t from, Entry* into) {
  const auto read = [file](unsigned char* to, size_t length, off_t at) { return pread(file, to, length, at); };
  const int failed = transfer_all(reinterpret_cast<unsigned char*>(into), kPieceEntries * sizeof(Entry), from, read);
  if (failed == 0) return KeyIndexStatus::kOk;
  failure_ = {"keys that wait to be sorted cannot be read again in " + directory_ + ": " + std::strerror(failed), failed};
  return KeyIndexStatus::kSpill;
}

KeyIndexStatus KeyIndexBuilder::next_seed() {
  if (++seed_ == kSeeds) return KeyIndexStatus::kUnplaceable;
  const std::vector<Range> before = std::move(ranges_);
  const int file = file_;
  start();
  KeyIndexStatus status = KeyIndexStatus::kOk;
  const auto put_again = [&](const std::vector<Entry>& entries) {
    for (const Entry& entry : entries) {
      if (status != KeyIndexStatus::kOk) return;
      status = put({entry.key, entry.row, static_cast<uint32_t>(home_of(entry.key, seed_, homes_))});
    }
  };
  std::vector<Entry> piece(kPieceEntries);
  for (const Range& range : before) {
    for (const uint64_t from : range.pieces) {
      if (status == KeyIndexStatus::kOk) status = read_piece(file, from, piece.data());
      put_again(piece);
    }
    put_again(range.latest);
  }
  if (file >= 0) close(file);
  return status;
}

KeyIndexStatus KeyIndexBuilder::count_range(bool* done) {
  *done = false;
  if (added_ != num_keys_) return KeyIndexStatus::kWrongCount;
  KeyIndexStatus status = load_range();
  uint64_t counted = 0;
  if (status == KeyIndexStatus::kOk && !place_loaded(nullptr, UINT64_MAX, &counted)) status = KeyIndexStatus::kUnplaceable;
  if (status == KeyIndexStatus::kUnplaceable) return next_seed();
  if (status != KeyIndexStatus::kOk || in_work() || !loaded_all()) return status;
  num_buckets_ = bucket_;
  *done = true;
  if (ranges_.size() > 1) rewind();
  placed_ = arrived_ = bucket_ = 0;
  return status;
}

KeyIndexStatus KeyIndexBuilder::place(unsigned char* out, uint64_t room, uint64_t* written) {
  *written = 0;
  while (*written < room && bucket_ < num_buckets_) {
    if (!in_work()) {
      const KeyIndexStatus status = load_range();
      if (status != KeyIndexStatus::kOk) return status;
    }
    if (!place_loaded(out, room, written)) return KeyIndexStatus::kUnplaceable;
  }
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::load_range() {
  const Range& range = ranges_[next_range_];
  loaded_.erase(loaded_.begin() + static_cast<int64_t>(arrived_), loaded_.end());
  loaded_.erase(loaded_.begin(), loaded_.begin() + static_cast<int64_t>(placed_));
  arrived_ -= placed_;
  placed_ = 0;
  const uint64_t first_home = next_range_ * range_homes_;
  const uint64_t num_homes = std::min(range_homes_, homes_ - first_home);
  KeyIndexStatus status = range.pieces.empty() ? KeyIndexStatus::kOk : read_range(range, most_in_range_);
  if (status == KeyIndexStatus::kOk) status = sort_into_loaded(range.pieces.empty() ? range.latest : unsorted_, first_home, num_homes);
  if (status == KeyIndexStatus::kOk && range.count > most_in_range_) status = KeyIndexStatus::kUnplaceable;
  end_home_ = first_home + num_homes;
  ++next_range_;
  return status;
}

// At most so many of its keys, in any order.
KeyIndexStatus KeyIndexBuilder::read_range(const Range& range, uint64_t most) {
  unsorted_.resize(range.pieces.size() * kPieceEntries > most ? most / kPieceEntries * kPieceEntries : range.count);
  uint64_t at = 0;
  for (const uint64_t from : range.pieces) {
    if (at == unsorted_.size()) return KeyIndexStatus::kOk;
    const KeyIndexStatus status = read_piece(file_, from, unsorted_.data() + at);
    if (status != KeyIndexStatus::kOk) return status;
    at += kPieceEntries;
  }
  std::copy(range.latest.begin(), range.latest.end(), unsorted_.begin() + static_cast<int64_t>(at));
  return KeyIndexStatus::kOk;
}

KeyIndexStatus KeyIndexBuilder::sort_into_loaded(const std::vector<Entry>& unsorted, uint64_t first_home, uint64_t num_homes) {
  ends_.assign(num_homes + 1, 0);
  for (const Entry& entry : unsorted) ++ends_[entry.home - first_home + 1];
  for (uint64_t h = 0; h < num_homes; ++h) ends_[h + 1] += ends_[h];
  const uint64_t before = loaded_.size();
  loaded_.resize(before + unsorted.size());
  Entry* const sorted = loaded_.data() + before;
  // From here on ends_[h] is where the next key of home h goes, and at last where those of h end.
  for (const Entry& entry : unsorted) sorted[ends_[entry.home - first_home]++] = entry;
  uint64_t from = before;
  for (uint64_t h = 0; h < num_homes; ++h) {
    const uint64_t to = before + ends_[h];
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

bool KeyIndexBuilder::place_loaded(unsigned char* out, uint64_t room, uint64_t* written) {
  for (; *written < room && in_work(); ++*written, ++bucket_) {
    const uint64_t before = arrived_;
    while (arrived_ < loaded_.size() && loaded_[arrived_].home == bucket_) ++arrived_;
    // Those that wait go first, so the last key of this home lies as many buckets on as are filled by then.
    const uint64_t waiting = arrived_ - placed_, reach = arrived_ == before ? 0 : (waiting - 1) / kBucketKeys;
    if (reach > kMaxReach) return false;
    const uint64_t count = std::min<uint64_t>(waiting, kBucketKeys);
    if (out != nullptr) write_bucket(out + *written * kBucketBytes, count, reach);
    placed_ += count;
  }
  return true;
}

void KeyIndexBuilder::write_bucket(unsigned char* out, uint64_t count, uint64_t reach) const {
  std::memset(out, 0, kBucketBytes);
  for (uint64_t slot = 0; slot < count; ++slot) {
    store(out + slot * 8, loaded_[placed_ + slot].key);
    store(out + kRowsAt + slot * 4, loaded_[placed_ + slot].row);
  }
  out[kCountAt] = static_cast<unsigned char>(count);
  out[kReachAt] = static_cast<unsigned char>(reach);
}

}  // namespace terabag
