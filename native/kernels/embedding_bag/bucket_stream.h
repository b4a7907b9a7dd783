#pragma once
#include "kernels/embedding_bag/row_of_id.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace terabag {
namespace {

constexpr uint32_t kCacheLine = 64;
constexpr int kNowhere = -1, kToL2 = 2, kToL1 = 3;  // the last two: of __builtin_prefetch

// Longer rows count as this many: the hardware goes on by itself within one.
constexpr int64_t kMaxRowLines = 64;

static inline int64_t lines_of(const BagJob& job) {
  const auto lines = static_cast<int64_t>((bytes_per_row(job.format, job.dim) + kCacheLine - 1) / kCacheLine);
  return lines < kMaxRowLines ? lines : kMaxRowLines;
}

// Whether a row that does not start on a line may end on one more than lines_of.
static inline bool straddles(const BagJob& job) {
  // Rows start on multiples of the largest power of 2 in here, and of those the last before a line's end has the most lines.
  const uint64_t starts = reinterpret_cast<uintptr_t>(job.rows) | job.row_pitch | kCacheLine, step = starts & (~starts + 1);
  return (bytes_per_row(job.format, job.dim) - 1) % kCacheLine >= step;
}

static inline uint64_t ids_of(const BagJob& job) { return job.offsets[job.num_bags] - job.offsets[0]; }

static constexpr bool converts(RowFormat format) { return format != RowFormat::kFp32; }

// The rows of one job with many ids, of which one is fetched ahead for each that is summed. Rows of few lines that have to be converted
// take as long to sum as to fetch: this way a core does both at the same time, which it does not in bursts (Zen 4, int4, dim 64: 9.4 ns in
// bursts, 6.8 ns one by one). Rows of more lines, and of float32, are better off in bursts. An id is read twice, to fetch its row and to
// sum it, and checked each time. Padding that may have a row is one check more, which is not made for all others: it goes in bursts.
static inline bool suit_one_by_one(const BagJob& job) {
  constexpr int64_t kMostLines = 3;
  // The first rows are waited for.
  constexpr uint64_t kFewestIds = 1024;
  return job.pooling != Pooling::kMax && converts(job.format) && lines_of(job) <= kMostLines && job.prefetch.lines > 0 &&
         job.prefetch.to_l2 && ids_of(job) >= kFewestIds && !pads_rows(job);
}

// As equal_slots: all slots of a bucket at once.
static inline uint32_t find_in_bucket(const unsigned char* bucket, uint64_t begin, const SlotLayout& layout) {
#if defined(__AVX512F__)
  const __m512i place_u64x8 = _mm512_set1_epi64(static_cast<int64_t>(layout.place));
  const __m512i begins_u64x8 = _mm512_and_si512(_mm512_loadu_si512(bucket), place_u64x8);
  return _mm512_cmpeq_epi64_mask(begins_u64x8, _mm512_set1_epi64(static_cast<int64_t>(begin)));
#elif defined(__AVX2__)
  const __m256i place_u64x4 = _mm256_set1_epi64x(static_cast<int64_t>(layout.place));
  const __m256i begin_u64x4 = _mm256_set1_epi64x(static_cast<int64_t>(begin));
  const auto equal_in = [&](const unsigned char* four) {
    const __m256i begins_u64x4 = _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(four)), place_u64x4);
    return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(begins_u64x4, begin_u64x4))));
  };
  return equal_in(bucket) | equal_in(bucket + 32) << 4;
#else
  return equal_slots(bucket, begin, layout);
#endif
}

// Most keys that are looked for in a row, between two looks at the buckets ahead of them.
constexpr uint64_t kMostKeys = 64;

// The ids of all keyed jobs as one stream, with their homes, which are fetched ahead of the rows: across bags and across tables, since a
// row can only be fetched when its bucket is there. Each id is read once.
class BucketStream {
 public:
  struct Wanted {
    KeyPlace place;
    uint64_t key;
  };

  BucketStream(const BagJob* jobs, const BagJob* end) : job_(jobs), end_(end) {}

  // The next `count`, at most kMostKeys, are read after this; those behind them are fetched, when kFetch says so.
  template <bool kFetch>
  void advance(uint64_t count) {
    const uint64_t until = taken_ + count + (kFetch ? kAhead : 0);
    while (found_ < until && enter_job()) {
      const uint64_t wanted = until - found_, rest = num_ids_ - position_;
      job_->index_bytes == 4 ? find<int32_t, kFetch>(wanted < rest ? wanted : rest) : find<int64_t, kFetch>(wanted < rest ? wanted : rest);
    }
  }
  const Wanted& at(uint64_t i) const { return ring_[(taken_ + i) % kCapacity]; }
  void take(uint64_t count) { taken_ += count; }

 private:
  static constexpr uint64_t kCapacity = 256;
  // Buckets that are fetched before they are read: they have to hide the wait for one, rows that are fetched in between take longer.
  static constexpr uint64_t kAhead = 96;
  static_assert(kMostKeys + kAhead <= kCapacity, "what is fetched has to stay in the ring");

  // False behind the last id.
  bool enter_job() {
    if (position_ != num_ids_) return true;
    if (num_ids_ != 0) ++job_;
    while (job_ != end_ && (job_->keys == nullptr || ids_of(*job_) == 0 || suit_one_by_one(*job_))) ++job_;
    position_ = 0;
    num_ids_ = job_ == end_ ? 0 : ids_of(*job_);
    return num_ids_ != 0;
  }

  template <typename Id, bool kFetch>
  void find(uint64_t count) {
    const KeyIndex index = *job_->keys;
    const unsigned char* ids = job_->indices + position_ * sizeof(Id);
    for (uint64_t i = 0; i < count; ++i, ids += sizeof(Id)) {
      auto key = static_cast<uint64_t>(static_cast<int64_t>(load<Id>(ids)));
      // Keeps the compiler from reading it a second time: the buffer may change meanwhile.
      __asm__("" : "+r"(key));
      const KeyPlace place = place_of(key, index.seed, index.homes);
      if constexpr (kFetch) __builtin_prefetch(index.buckets + place.home * kBucketBytes, 0, kToL2);
      ring_[(found_ + i) % kCapacity] = {place, key};
    }
    found_ += count;
    position_ += count;
  }

  const BagJob* job_;
  const BagJob* end_;
  uint64_t position_ = 0, num_ids_ = 0;  // of the job
  uint64_t found_ = 0, taken_ = 0;       // since the start
  Wanted ring_[kCapacity];
};

}  // namespace
}  // namespace terabag
