#pragma once
#include <cstdint>

#include "kernels/mix64.h"
#include "kernels/row_format.h"

// The index of a keyed table: which row a 64-bit key has. docs/model-json.md describes the file; native/tables/key_index.h writes it.
//
// Buckets of one cache line, little-endian:
//   bytes 0..39   5 keys of 8 bytes
//   bytes 40..59  their rows, 4 bytes each
//   byte 60       how many of the 5 are used; unused ones are zero
//   byte 61       reach: how many buckets further on keys whose home is this bucket may lie
//   bytes 62, 63  zero
//
// The home of a key is bucket mulhi(mix64(key ^ seed), homes). Keys lie in the order of their homes, the first of them in the first bucket
// that has room, so that a key that its home has no room for lies in one of the next; behind the last home are as many buckets as that
// takes.
//
// Nothing in the bytes is trusted: whatever they hold, no bucket outside of the index is read, and no row beyond num_rows found.
// All is static, so that each instruction set keeps its own copy.
namespace terabag {

static constexpr uint64_t kBucketBytes = 64;
static constexpr uint32_t kBucketKeys = 5;
static constexpr uint32_t kRowsAt = 40, kCountAt = 60, kReachAt = 61;
static constexpr uint32_t kMaxReach = 255;
// A bucket for every 65/16 keys: with those behind the last home, an index takes less than 16 bytes a key.
static constexpr uint64_t kHomesOf65Keys = 16;

static constexpr uint64_t homes_of(uint64_t num_keys) {
  return num_keys / 65 * kHomesOf65Keys + (num_keys % 65 * kHomesOf65Keys + 64) / 65;
}

// A mapped index, as a job names it.
struct KeyIndex {
  const unsigned char* buckets;  // [num_buckets] of kBucketBytes, any alignment; null: the table has no keys, ids are rows
  uint64_t num_buckets;          // at least homes
  uint64_t homes;                // at least 1
  uint64_t seed;
};

static inline uint64_t home_of(uint64_t key, uint64_t seed, uint64_t homes) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(mix64(key ^ seed)) * homes >> 64);
}

// The part of a row-wise split that has the key. By other bits than its home: the keys of a part have homes all over its index.
static inline uint32_t part_of(uint64_t key, uint32_t parts) { return static_cast<uint32_t>((mix64(key) & 0xffffffffu) * parts >> 32); }

// Which of a bucket's 5 keys are this one, a bit each; bits beyond are undefined.
static inline uint32_t equal_keys(const unsigned char* bucket, uint64_t key) {
  uint32_t equal = 0;
  for (uint32_t slot = 0; slot < kBucketKeys; ++slot) equal |= static_cast<uint32_t>(load<uint64_t>(bucket + slot * 8) == key) << slot;
  return equal;
}

static constexpr uint64_t kNoRow = ~0ull;

// The row of the slot that `equal` names, if it is in use and the table has that row; else kNoRow.
static inline uint64_t row_in(const unsigned char* bucket, uint32_t equal, uint64_t num_rows) {
  const uint32_t used = (1u << (bucket[kCountAt] & 7)) - 1, found = equal & used & ((1u << kBucketKeys) - 1);
  if (found == 0) return kNoRow;
  uint64_t row = load<uint32_t>(bucket + kRowsAt + 4 * static_cast<uint32_t>(__builtin_ctz(found)));
  // Keeps the compiler from reading it a second time after the check: the file may change meanwhile.
  __asm__("" : "+r"(row));
  return row < num_rows ? row : kNoRow;
}

// The row of a key; kNoRow when the index does not have it.
static inline uint64_t find_row(const KeyIndex& index, uint64_t key, uint64_t num_rows) {
  const uint64_t home = home_of(key, index.seed, index.homes);
  const unsigned char* bucket = index.buckets + home * kBucketBytes;
  const uint64_t reach = bucket[kReachAt], rest = index.num_buckets - 1 - home, last = reach < rest ? reach : rest;
  for (uint64_t step = 0; step <= last; ++step, bucket += kBucketBytes) {
    const uint64_t row = row_in(bucket, equal_keys(bucket, key), num_rows);
    if (row != kNoRow) return row;
  }
  return kNoRow;
}

}  // namespace terabag
