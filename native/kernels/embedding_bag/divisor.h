#pragma once
#include "kernels/embedding_bag/row_of_id.h"

namespace terabag {
namespace {

// How many ids a bag has, and how many of them were not skipped.
struct BagCounts {
  uint32_t ids, pooled;
};

static inline bool is_skipped(const BagJob& job, uint64_t position) {
  const int64_t id = load_index(job, position);
  const TableRows table(job);
  uint64_t counted_before = 0;
  return !is_row(row_of_any(job, table, id)) && missed_row(job, id, &counted_before) == skipped_row();
}

// Apart from the loops over rows, which it would make longer. Which ids were skipped is found out again: that there are some is rare.
static __attribute__((noinline)) float sum_of_weights(const BagJob& job, uint64_t at, BagCounts counts) {
  float sum = 0.0f;
  for (uint32_t i = 0; i < counts.ids; ++i) {
    if (counts.ids == counts.pooled || !is_skipped(job, at + i)) sum += load_weight(job, at + i);
  }
  return sum;
}

// What a mean of the ids from `at` on is divided by.
static inline float divisor_of(const BagJob& job, uint64_t at, BagCounts counts) {
  return job.pooling == Pooling::kWeightedMean ? sum_of_weights(job, at, counts) : static_cast<float>(counts.pooled);
}

// Whether the sum of a bag is divided, or given with what it is to be divided by.
static inline bool has_divisor(const BagJob& job) { return job.pooling != Pooling::kSum || job.divisor; }

}  // namespace
}  // namespace terabag
