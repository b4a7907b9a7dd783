#pragma once
#include "kernels/embedding_bag/bucket_stream.h"
#include "kernels/embedding_bag/row_of_id.h"

namespace terabag {
namespace {

class RowsOneByOne {
 public:
  static constexpr bool takes(RowFormat format) { return converts(format); }
  explicit RowsOneByOne(const BagJob& job)
      : job_(job),
        table_(job),
        num_ids_(ids_of(job)),
        distance_(job.prefetch.lines),
        last_byte_(bytes_per_row(job.format, job.dim) - 1),
        // Fetches the last byte's line by itself: it may be one more.
        other_lines_(straddles(job) ? lines_of(job) : lines_of(job) - 1) {
    for (uint64_t at = 0; at < distance_ && at < num_ids_; ++at) fetch(at);
  }
  RowsOneByOne(const RowsOneByOne&) = delete;
  ~RowsOneByOne() { count_unseen(job_, unseen_); }

  inline uint32_t take(uint32_t count, int64_t) {
    position_ += last_count_;
    return last_count_ = count;
  }
  // Row i of those that were taken last; or no_row(), of bad_id(), or skipped_row().
  inline __attribute__((always_inline)) const unsigned char* row(uint32_t i) {
    const uint64_t at = position_ + i;
    if (at + distance_ < num_ids_) fetch(at + distance_);
    const int64_t id = load_index(job_, at);
    const unsigned char* const row = table_.row_of_id<false>(id);
    if (is_row(row)) return row;
    bad_id_ = id;
    return missed_row(job_, id, &unseen_);
  }
  int64_t bad_id() const { return bad_id_; }

 private:
  inline __attribute__((always_inline)) void fetch(uint64_t at) const {
    auto id = static_cast<uint64_t>(load_index(job_, at));
    if (__builtin_expect(id >= table_.num_rows, false))
      id = job_.unseen.policy == UnseenPolicy::kHash ? mix64(id) % job_.unseen.buckets : 0;
    const unsigned char* const row = table_.rows + id * table_.pitch;
    __builtin_prefetch(row + last_byte_, 0, kToL2);
    for (int64_t line = other_lines_ - 1; line >= 0; --line) __builtin_prefetch(row + line * kCacheLine, 0, kToL2);
  }

  const BagJob& job_;
  const TableRows table_;
  const uint64_t num_ids_;
  const uint64_t distance_;  // in rows: those of few lines take as long as one line
  const uint64_t last_byte_;
  const int64_t other_lines_;
  uint64_t position_ = 0;
  uint32_t last_count_ = 0;
  int64_t bad_id_ = 0;
  uint64_t unseen_ = 0;
};

// The same of a keyed table, in stages: a bucket is fetched, then looked at, which is when its row is fetched, or the next bucket of a key
// that it has no room for; those are looked at a stage later. Each id is read once.
class KeysOneByOne {
 public:
  static constexpr bool takes(RowFormat format) { return converts(format); }
  explicit KeysOneByOne(const BagJob& job)
      : job_(job),
        index_(*job.keys),
        layout_(index_.homes),
        table_(job),
        num_ids_(ids_of(job)),
        distance_(job.prefetch.lines < kMostAhead ? job.prefetch.lines : kMostAhead),
        last_byte_(bytes_per_row(job.format, job.dim) - 1),
        other_lines_(straddles(job) ? lines_of(job) : lines_of(job) - 1) {
    for (uint64_t at = 0; at < distance_ + kNextAhead + kBucketsAhead; ++at) fetch_bucket(at);
    for (uint64_t at = 0; at < distance_ + kNextAhead; ++at) find_at_home(at);
    for (uint64_t at = 0; at < distance_; ++at) find_elsewhere(at);
  }

  KeysOneByOne(const KeysOneByOne&) = delete;
  ~KeysOneByOne() { count_unseen(job_, unseen_); }

  inline uint32_t take(uint32_t count, int64_t) {
    position_ += last_count_;
    return last_count_ = count;
  }
  // Row i of those that were taken last; or no_row(), or skipped_row().
  inline __attribute__((always_inline)) const unsigned char* row(uint32_t i) {
    const uint64_t at = position_ + i;
    fetch_bucket(at + distance_ + kNextAhead + kBucketsAhead);
    find_at_home(at + distance_ + kNextAhead);
    find_elsewhere(at + distance_);
    return ring_[at % kCapacity].row;
  }
  int64_t bad_id() const { return bad_id_; }

 private:
  static constexpr uint64_t kBucketsAhead = 32, kNextAhead = 8, kMostAhead = 256, kCapacity = 512;
  static_assert(kBucketsAhead + kNextAhead + kMostAhead < kCapacity, "what is fetched must not take the place of what is read next");
  struct Wanted {
    const unsigned char* row;
    KeyPlace place;
    uint64_t key;
  };
  // In place of an address: the row has not been found at home.
  static inline const unsigned char* elsewhere() { return reinterpret_cast<const unsigned char*>(2); }

  inline __attribute__((always_inline)) void fetch_bucket(uint64_t at) {
    if (at >= num_ids_) return;
    const auto key = static_cast<uint64_t>(load_index(job_, at));
    const KeyPlace place = place_of(key, index_.seed, index_.homes);
    __builtin_prefetch(index_.buckets + place.home * kBucketBytes, 0, kToL2);
    Wanted& wanted = ring_[at % kCapacity];
    wanted.place = place;
    wanted.key = key;
  }
  inline __attribute__((always_inline)) void find_at_home(uint64_t at) {
    if (at >= num_ids_) return;
    Wanted& wanted = ring_[at % kCapacity];
    const unsigned char* const home = index_.buckets + wanted.place.home * kBucketBytes;
    const uint64_t row = row_in(home, find_in_bucket(home, wanted.place.remainder, layout_), layout_, table_.num_rows);
    if (__builtin_expect(row == kNoRow, false)) {
      __builtin_prefetch(home + kBucketBytes, 0, kToL2);
      wanted.row = elsewhere();
      return;
    }
    wanted.row = table_.rows + row * table_.pitch;
    fetch_row(wanted.row);
  }
  inline __attribute__((always_inline)) void find_elsewhere(uint64_t at) {
    if (at < num_ids_ && __builtin_expect(ring_[at % kCapacity].row == elsewhere(), false)) find_elsewhere(ring_[at % kCapacity]);
  }
  inline __attribute__((always_inline)) void fetch_row(const unsigned char* row) const {
    __builtin_prefetch(row + last_byte_, 0, kToL2);
    for (int64_t line = other_lines_ - 1; line >= 0; --line) __builtin_prefetch(row + line * kCacheLine, 0, kToL2);
  }
  __attribute__((noinline)) void find_elsewhere(Wanted& wanted) {
    const uint64_t row = find_displaced(index_, wanted.place, table_.num_rows);
    const auto id = static_cast<int64_t>(wanted.key);
    wanted.row = row == kNoRow ? missed_row(job_, id, &unseen_) : table_.rows + row * table_.pitch;
    if (is_row(wanted.row)) return fetch_row(wanted.row);
    if (wanted.row != no_row() || bad_) return;
    bad_ = true;
    bad_id_ = id;
  }

  const BagJob& job_;
  const KeyIndex index_;
  const SlotLayout layout_;
  const TableRows table_;
  const uint64_t num_ids_;
  const uint64_t distance_;  // in rows
  const uint64_t last_byte_;
  const int64_t other_lines_;
  uint64_t position_ = 0;
  uint32_t last_count_ = 0;
  bool bad_ = false;
  int64_t bad_id_ = 0;
  uint64_t unseen_ = 0;
  Wanted ring_[kCapacity];
};

// The rows of all other jobs as one stream, in the order in which the kernel adds them up: it finds them ahead of the kernel, across bags
// and across tables, since the bags of a small batch are too short for anything else to be ahead of, checks their ids and fetches them.
// Each id is read once; what the kernel gets are the rows' addresses. Rows are found in bursts and summed in bursts: a core that waits for
// memory has the more lines in flight the fewer instructions lie between their fetches (Zen 4, fp32, dim 64: 50 ns with rows found one by
// one, 20 ns in bursts).
class RowStream {
 public:
  static constexpr bool takes(RowFormat) { return true; }
  RowStream(const BagJob* jobs, uint32_t num_jobs) : job_(jobs), end_(jobs + num_jobs), buckets_(jobs, jobs + num_jobs) { enter_job(); }

  // The kernel comes to its next rows, of so many lines each. Keeps the distance, and says how many of `count` are ready, at least one.
  inline uint32_t take(uint32_t count, int64_t lines) {
    taken_ += last_count_;
    if (ahead_ < distance_ || found_ == taken_) refill();
    const uint64_t ready = found_ - taken_ < kMostAtOnce ? found_ - taken_ : kMostAtOnce;
    last_count_ = count < ready ? count : static_cast<uint32_t>(ready);
    ahead_ -= last_count_ * lines;
    return last_count_;
  }

  // Row i of those that were taken last; or no_row(), or skipped_row().
  inline const unsigned char* row(uint32_t i) const { return rows_[(taken_ + i) % kCapacity]; }
  // Of the first that has no row.
  int64_t bad_id() const { return bad_id_; }

 private:
  static constexpr uint32_t kCapacity = 1024;
  static constexpr uint32_t kMostAtOnce = 16;
  static constexpr int64_t kBurstLines = 128;

  __attribute__((noinline)) void refill() {
    const int64_t until = distance_ + kBurstLines;
    while (job_ != end_ && ahead_ < until) {
      const uint64_t room = kCapacity - (found_ - taken_), rest = num_ids_ - position_;
      if (room == 0) return;
      const auto wanted = static_cast<uint64_t>((until - ahead_ + lines_ - 1) / lines_), most = room < rest ? room : rest;
      find(wanted < most ? wanted : most);
      if (position_ != num_ids_) continue;
      ++job_;
      enter_job();
    }
  }

  void find(uint64_t count) {
    if (job_->keys != nullptr) {
      find_keys(count);
    } else {
      pads_rows_ ? find<true>(count) : find<false>(count);
    }
    if (unseen_ == 0) return;
    count_unseen(*job_, unseen_);
    unseen_ = 0;
  }

  template <bool kPads>
  void find(uint64_t count) {
    const bool wide = job_->index_bytes != 4;
    if (distance_ == 0) {
      wide ? find<kPads, int64_t, kNowhere>(count) : find<kPads, int32_t, kNowhere>(count);
    } else if (to_l2_) {
      wide ? find<kPads, int64_t, kToL2>(count) : find<kPads, int32_t, kToL2>(count);
    } else {
      wide ? find<kPads, int64_t, kToL1>(count) : find<kPads, int32_t, kToL1>(count);
    }
  }

  // A loop for the few lines of most rows would cost more than the fetches.
  template <int kLevel>
  static inline __attribute__((always_inline)) void fetch(const unsigned char* row, int64_t lines) {
    switch (lines) {
      default:
        for (int64_t line = 8; line < lines; ++line) __builtin_prefetch(row + line * kCacheLine, 0, kLevel);
        [[fallthrough]];
      case 8: __builtin_prefetch(row + 7 * kCacheLine, 0, kLevel); [[fallthrough]];
      case 7: __builtin_prefetch(row + 6 * kCacheLine, 0, kLevel); [[fallthrough]];
      case 6: __builtin_prefetch(row + 5 * kCacheLine, 0, kLevel); [[fallthrough]];
      case 5: __builtin_prefetch(row + 4 * kCacheLine, 0, kLevel); [[fallthrough]];
      case 4: __builtin_prefetch(row + 3 * kCacheLine, 0, kLevel); [[fallthrough]];
      case 3: __builtin_prefetch(row + 2 * kCacheLine, 0, kLevel); [[fallthrough]];
      case 2: __builtin_prefetch(row + 1 * kCacheLine, 0, kLevel); [[fallthrough]];
      case 1: __builtin_prefetch(row, 0, kLevel);
    }
  }

  template <bool kPads, typename Id, int kLevel>
  inline __attribute__((always_inline)) void find(uint64_t count) {
    const unsigned char* ids = job_->indices + position_ * sizeof(Id);
    const TableRows table(*job_);
    const uint64_t first = found_;
    const int64_t lines = lines_;
    const bool straddles = straddles_;
    for (uint64_t i = 0; i < count; ++i, ids += sizeof(Id)) {
      int64_t id = load<Id>(ids);
      // Keeps the compiler from reading it a second time after the check: the buffer may change meanwhile.
      __asm__("" : "+r"(id));
      const unsigned char* row = table.row_of_id<kPads>(id);
      if (is_row(row)) {
        if constexpr (kLevel != kNowhere) {
          fetch<kLevel>(row, lines);
          // A row that does not start on a line may end on one more.
          if (straddles) __builtin_prefetch(row + row_bytes_ - 1, 0, kLevel);
        }
      } else {
        row = miss<kLevel>(id);
      }
      rows_[(first + i) % kCapacity] = row;
    }
    found_ += count;
    position_ += count;
    ahead_ += static_cast<int64_t>(count) * lines;
  }

  template <int kLevel>
  __attribute__((noinline, cold)) const unsigned char* miss(int64_t id) {
    const unsigned char* const row = missed_row(*job_, id, &unseen_);
    if (row == no_row() && !bad_) {
      bad_ = true;
      bad_id_ = id;
    }
    if constexpr (kLevel != kNowhere) {
      // A bucket's row is any row. One that stands in for all others is in the caches.
      const bool is_bucket = job_->unseen.policy == UnseenPolicy::kHash;
      if (is_row(row) && (is_bucket || row != job_->unseen.row))
        __builtin_prefetch(row + row_bytes_ - 1, 0, kLevel), fetch<kLevel>(row, lines_);
    }
    return row;
  }

  void find_keys(uint64_t count) {
    for (uint64_t some; count > 0; count -= some) {
      some = count < kMostKeys ? count : kMostKeys;
      if (distance_ == 0) {
        find_keys<kNowhere>(some);
      } else if (to_l2_) {
        find_keys<kToL2>(some);
      } else {
        find_keys<kToL1>(some);
      }
    }
  }

  // The rows of keys, whose buckets were fetched before. Those that do not lie in their home are looked for when all others are found:
  // their next bucket is fetched meanwhile.
  template <int kLevel>
  void find_keys(uint64_t count) {
    uint64_t missed[kMostKeys];
    uint64_t num_missed = 0;
    const unsigned char* const table = job_->rows;
    const uint64_t num_rows = job_->num_rows, pitch = job_->row_pitch, first = found_;
    const bool pads = job_->unseen.pads;
    const auto padding = static_cast<uint64_t>(job_->unseen.padding_id);
    const KeyIndex index = *job_->keys;
    const SlotLayout layout(index.homes);
    buckets_.advance<kLevel != kNowhere>(count);
    for (uint64_t i = 0; i < count; ++i) {
      const auto& [place, key] = buckets_.at(i);
      const unsigned char* const home = index.buckets + place.home * kBucketBytes;
      const uint64_t row = row_in(home, find_in_bucket(home, place.remainder, layout), layout, num_rows);
      if (__builtin_expect(row != kNoRow && !(pads && key == padding), true)) {
        rows_[(first + i) % kCapacity] = fetch_row<kLevel>(table + row * pitch);
      } else {
        missed[num_missed++] = i;
        if constexpr (kLevel != kNowhere) __builtin_prefetch(home + kBucketBytes, 0, kToL1);
      }
    }
    for (uint64_t m = 0; m < num_missed; ++m) {
      const auto& [place, key] = buckets_.at(missed[m]);
      const uint64_t row = pads && key == padding ? kNoRow : find_displaced(index, place, num_rows);
      rows_[(first + missed[m]) % kCapacity] =
          row == kNoRow ? miss<kLevel>(static_cast<int64_t>(key)) : fetch_row<kLevel>(table + row * pitch);
    }
    buckets_.take(count);
    found_ += count;
    position_ += count;
    ahead_ += static_cast<int64_t>(count) * lines_;
  }

  template <int kLevel>
  inline __attribute__((always_inline)) const unsigned char* fetch_row(const unsigned char* row) const {
    if constexpr (kLevel != kNowhere) {
      fetch<kLevel>(row, lines_);
      if (straddles_) __builtin_prefetch(row + row_bytes_ - 1, 0, kLevel);
    }
    return row;
  }

  void enter_job() {
    while (job_ != end_ && (ids_of(*job_) == 0 || suit_one_by_one(*job_))) ++job_;
    if (job_ == end_) return;
    position_ = 0;
    num_ids_ = ids_of(*job_);
    lines_ = lines_of(*job_);
    distance_ = job_->prefetch.lines;
    to_l2_ = job_->prefetch.to_l2;
    row_bytes_ = bytes_per_row(job_->format, job_->dim);
    straddles_ = straddles(*job_);
    pads_rows_ = pads_rows(*job_);
  }

  const BagJob* job_;
  const BagJob* end_;
  uint64_t found_ = 0, taken_ = 0;  // rows, since the start; those that were taken last not counted
  uint32_t last_count_ = 0;
  int64_t ahead_ = 0;  // lines found, less those of rows that the kernel came to
  uint64_t position_ = 0, num_ids_ = 0;
  int64_t lines_ = 0, distance_ = 0;
  uint64_t row_bytes_ = 0;
  bool straddles_ = false, pads_rows_ = false, to_l2_ = false, bad_ = false;
  int64_t bad_id_ = 0;
  uint64_t unseen_ = 0;                   // of the job, not counted yet
  const unsigned char* rows_[kCapacity];  // as a ring
  BucketStream buckets_;
};

// Rows of a job that a stream found before, and counted: read from their ids anew.
class RowsAgain {
 public:
  RowsAgain(const BagJob& job, uint64_t position) : job_(job), table_(job), position_(position) {}

  inline uint32_t take(uint32_t count, int64_t) {
    position_ += last_count_;
    return last_count_ = count;
  }
  inline const unsigned char* row(uint32_t i) {
    const int64_t id = load_index(job_, position_ + i);
    const unsigned char* const row = row_of_any(job_, table_, id);
    if (is_row(row)) return row;
    bad_id_ = id;
    uint64_t counted_before = 0;
    return missed_row(job_, id, &counted_before);
  }
  int64_t bad_id() const { return bad_id_; }

 private:
  const BagJob& job_;
  const TableRows table_;
  uint64_t position_;
  uint32_t last_count_ = 0;
  int64_t bad_id_ = 0;
};

}  // namespace
}  // namespace terabag
