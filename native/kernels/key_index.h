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
//   bytes 61, 62  the first and the last bucket, counted from this one, where keys lie whose home is this bucket but has no room for them;
//                 zero when it has room for all
//   byte 63       zero
//
// The home of a key is bucket mulhi(mix64(key ^ seed), homes). The keys of a home lie in it, in the order of their rows; those that it has
// no room for, a ninth of all, in the next buckets that have, first come, first served. Behind the last home are as many buckets as that
// takes. So nearly every key lies in the one or two buckets that its home tells of.
//
// Nothing in the bytes is trusted: whatever they hold, no bucket outside of the index is read, and no row beyond num_rows found.
// All is static, so that each instruction set keeps its own copy.
namespace terabag {

static constexpr uint64_t kBucketBytes = 64;
static constexpr uint32_t kBucketKeys = 5;
static constexpr uint32_t kRowsAt = 40, kCountAt = 60, kFirstAt = 61, kLastAt = 62;
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

// The first bucket after its home where a key may lie; null when there is none.
static inline const unsigned char* next_bucket(const KeyIndex& index, const unsigned char* home) {
  const uint64_t first = home[kFirstAt], behind = static_cast<uint64_t>(home - index.buckets) / kBucketBytes + first;
  return first != 0 && behind < index.num_buckets ? home + first * kBucketBytes : nullptr;
}

// The row of a key that does not lie in its home; kNoRow when the index does not have it.
static inline uint64_t find_displaced(const KeyIndex& index, const unsigned char* home, uint64_t key, uint64_t num_rows) {
  const unsigned char* bucket = next_bucket(index, home);
  if (bucket == nullptr) return kNoRow;
  const unsigned char *const last = home + home[kLastAt] * kBucketBytes, *const end = index.buckets + index.num_buckets * kBucketBytes;
  for (; bucket <= last && bucket < end; bucket += kBucketBytes) {
    const uint64_t row = row_in(bucket, equal_keys(bucket, key), num_rows);
    if (row != kNoRow) return row;
  }
  return kNoRow;
}

// The row of a key; kNoRow when the index does not have it.
static inline uint64_t find_row(const KeyIndex& index, uint64_t key, uint64_t num_rows) {
  const unsigned char* const home = index.buckets + home_of(key, index.seed, index.homes) * kBucketBytes;
  const uint64_t row = row_in(home, equal_keys(home, key), num_rows);
  return row != kNoRow ? row : find_displaced(index, home, key, num_rows);
}

}  // namespace terabag
