#pragma once
#include "kernels/row_values.h"

namespace terabag {
namespace {

constexpr uint32_t kCacheLine = 64;
constexpr int kToL1 = 3, kToL2 = 2;  // of __builtin_prefetch
// Longer rows count as this many: the hardware goes on by itself within one.
constexpr int64_t kMaxRowLines = 64;

// Walks the ids of all jobs as one stream, ahead of the kernel, and fetches their rows: across bags and across tables, since the bags of a
// small batch are too short for anything else to be ahead of.
class PrefetchCursor {
 public:
  PrefetchCursor(const BagJob* jobs, uint32_t num_jobs) : job_(jobs), end_(jobs + num_jobs) { enter_job(); }

  // The kernel comes to an id of this job: keeps the distance. Lines are counted the same way for both ends of the stream.
  inline __attribute__((always_inline)) void run_ahead(const BagJob& consumed) {
    ahead_ -= lines_of(consumed);
    while (job_ != end_ && ahead_ < distance_) {
      const uint64_t row = static_cast<uint64_t>(load_index(*job_, position_));
      if (row < job_->num_rows) {
        const char* at = reinterpret_cast<const char*>(job_->rows + row * job_->row_pitch);
        to_l2_ ? fetch<kToL2>(at) : fetch<kToL1>(at);
      }
      ahead_ += lines_;
      if (++position_ == num_ids_) {
        ++job_;
        enter_job();
      }
    }
  }

 private:
  static inline uint64_t row_bytes_of(const BagJob& job) { return bytes_per_row(job.format, job.dim); }
  static inline int64_t lines_of(const BagJob& job) {
    const int64_t lines = static_cast<int64_t>((row_bytes_of(job) + kCacheLine - 1) / kCacheLine);
    return lines < kMaxRowLines ? lines : kMaxRowLines;
  }

  template <int locality>
  inline __attribute__((always_inline)) void fetch(const char* row) const {
    const char* at = row;
    for (int64_t line = 0; line < lines_; ++line, at += kCacheLine) __builtin_prefetch(at, 0, locality);
    // A row that does not start on a line may end on one more.
    if (straddles_) __builtin_prefetch(row + row_bytes_ - 1, 0, locality);
  }

  void enter_job() {
    while (job_ != end_ && job_->offsets[job_->num_bags] == job_->offsets[0]) ++job_;
    if (job_ == end_) return;
    position_ = 0;
    num_ids_ = job_->offsets[job_->num_bags] - job_->offsets[0];
    lines_ = lines_of(*job_);
    distance_ = job_->prefetch.lines;
    to_l2_ = job_->prefetch.to_l2;
    row_bytes_ = row_bytes_of(*job_);
    straddles_ = reinterpret_cast<uintptr_t>(job_->rows) % kCacheLine != 0 || job_->row_pitch % kCacheLine != 0;
  }

  const BagJob* job_;
  const BagJob* end_;
  int64_t ahead_ = 0;  // lines fetched, less those of rows that the kernel came to
  uint64_t position_ = 0, num_ids_ = 0;
  int64_t lines_ = 0, distance_ = 0;
  uint64_t row_bytes_ = 0;
  bool straddles_ = false, to_l2_ = false;
};

}  // namespace
}  // namespace terabag
