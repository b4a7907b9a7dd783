#include "tables/spilled_keys.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace terabag {
namespace {

// A file that goes with its descriptor, even when the process is killed.
int open_unnamed(const std::string& directory) {
  std::string path = directory + "/.keys-XXXXXX";
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

}  // namespace

SpilledKeys::SpilledKeys(uint64_t num_places, uint64_t range_places, std::string directory)
    : range_places_(range_places), directory_(std::move(directory)), ranges_((num_places + range_places - 1) / range_places) {
  for (Range& range : ranges_) range.latest.reserve(ranges_.size() == 1 ? 0 : kPieceEntries);
}

SpilledKeys::SpilledKeys(SpilledKeys&& other) noexcept
    : range_places_(other.range_places_),
      directory_(other.directory_),
      ranges_(std::move(other.ranges_)),
      file_(std::exchange(other.file_, -1)),
      file_bytes_(other.file_bytes_) {}

SpilledKeys::~SpilledKeys() {
  if (file_ >= 0) close(file_);
}

bool SpilledKeys::put(const KeyEntry& entry) {
  if (ranges_.size() == 1) {
    ranges_[0].latest.push_back(entry);
    ++ranges_[0].count;
    return true;
  }
  Range& range = ranges_[entry.place / static_cast<uint32_t>(range_places_)];
  range.latest.push_back(entry);
  ++range.count;
  return range.latest.size() < kPieceEntries || spill(&range);
}

bool SpilledKeys::spill(Range* range) {
  if (file_ < 0) file_ = open_unnamed(directory_);
  const uint64_t bytes = range->latest.size() * sizeof(KeyEntry);
  const auto write = [this](const unsigned char* from, size_t length, off_t at) { return pwrite(file_, from, length, at); };
  const int failed =
      file_ < 0 ? errno : transfer_all(reinterpret_cast<const unsigned char*>(range->latest.data()), bytes, file_bytes_, write);
  if (failed != 0) {
    failure_ = {"keys that wait to be sorted cannot be written to " + directory_ + ": " + std::strerror(failed), failed};
    return false;
  }
  range->pieces.push_back(file_bytes_);
  file_bytes_ += bytes;
  range->latest.clear();
  return true;
}

bool SpilledKeys::read_piece(uint64_t from, KeyEntry* into) {
  const auto read = [this](unsigned char* to, size_t length, off_t at) { return pread(file_, to, length, at); };
  const int failed = transfer_all(reinterpret_cast<unsigned char*>(into), kPieceEntries * sizeof(KeyEntry), from, read);
  if (failed == 0) return true;
  failure_ = {"keys that wait to be sorted cannot be read again in " + directory_ + ": " + std::strerror(failed), failed};
  return false;
}

bool SpilledKeys::read(uint64_t number, uint64_t most, const std::vector<KeyEntry>** entries) {
  const Range& range = ranges_[number];
  *entries = &range.latest;
  if (range.pieces.empty()) return true;
  const uint64_t num_pieces = std::min<uint64_t>(range.pieces.size(), std::max<uint64_t>(most / kPieceEntries, 1));
  const bool all = num_pieces == range.pieces.size();
  block_.resize(num_pieces * kPieceEntries);
  for (uint64_t p = 0; p < num_pieces; ++p) {
    if (!read_piece(range.pieces[p], block_.data() + p * kPieceEntries)) return false;
  }
  if (all) block_.insert(block_.end(), range.latest.begin(), range.latest.end());
  *entries = &block_;
  return true;
}

}  // namespace terabag
