#pragma once
#include <cstdint>

#include "kernels/mix64.h"
#include "kernels/row_format.h"

// The index of a keyed table: which row a 64-bit key has. docs/model-json.md describes the file; native/tables/key_index.h writes it.
//
// Of mix64(key ^ seed) * homes, 128 bits, the high half is the key's home, a bucket. The low half without its lowest `shift` bits, of which
// homes has one more, is the remainder: 2^shift is at most homes, so that no two keys of one home have the same. A bucket so holds 7 keys
// without holding any of them whole. It is one cache line, little-endian:
//   bytes 0..55   a word of 8 bytes for each of 7 slots:
//                   bits from `shift` on         the remainder
//                   the 4 bits below             how many buckets behind its home the key lies, 0 to 14
//                   the shift - 4 lowest bits    the lowest bits of its row
//   bytes 56..62  the next 8 bits of each slot's row
//   byte 63       how many buckets further on keys may lie whose home is this bucket, 0 to 14
// The bits of slots without a key, behind those that have one, are all ones: no key lies 15 buckets behind its home.
//
// The keys of a home lie in it, in the order of their rows; those that it has no room for, one of 46, in the next buckets that have, first
// come, first served. Behind the last home are as many buckets as that takes. So nearly every key is found in one cache line.
//
// Nothing in the bytes is trusted: whatever they hold, no bucket outside of the index is read, and no row beyond num_rows found.
// All is static, so that each instruction set keeps its own copy.
namespace terabag {

static constexpr uint64_t kBucketBytes = 64;
static constexpr uint32_t kBucketKeys = 7;
static constexpr uint32_t kHighRowsAt = 56, kReachAt = 63;
static constexpr uint32_t kDistanceBits = 4, kUnused = (1u << kDistanceBits) - 1, kMaxReach = kUnused - 1;
// A bucket for every 65/16 keys: with those behind the last home, an index takes less than 16 bytes a key.
static constexpr uint64_t kHomesOf65Keys = 16;
// So that a word has its bits for the distance, and that with one byte more it holds the row of any key.
static constexpr uint64_t kFewestHomes = 1 << kDistanceBits;

static constexpr uint64_t homes_of(uint64_t num_keys) {
  const uint64_t homes = num_keys / 65 * kHomesOf65Keys + (num_keys % 65 * kHomesOf65Keys + 64) / 65;
  return homes < kFewestHomes ? kFewestHomes : homes;
}

// A mapped index, as a job names it.
struct KeyIndex {
  const unsigned char* buckets;  // [num_buckets] of kBucketBytes, any alignment; null: the table has no keys, ids are rows
  uint64_t num_buckets;          // at least homes
  uint64_t homes;                // at least kFewestHomes
  uint64_t seed;
};

static inline uint32_t shift_of(uint64_t homes) { return 63 - static_cast<uint32_t>(__builtin_clzll(homes)); }

// Where a key is looked for: its home, and what a slot's word there begins with.
struct KeyPlace {
  uint64_t home, remainder;
};

static inline KeyPlace place_of(uint64_t key, uint64_t seed, uint64_t homes) {
  const unsigned __int128 product = static_cast<unsigned __int128>(mix64(key ^ seed)) * homes;
  return {static_cast<uint64_t>(product >> 64), static_cast<uint64_t>(product) & ~0ull << shift_of(homes)};
}

// The key that has this place: place_of, backwards.
static inline uint64_t key_at(const KeyPlace& place, uint64_t seed, uint64_t homes) {
  const unsigned __int128 least = static_cast<unsigned __int128>(place.home) << 64 | place.remainder;
  return unmix64(static_cast<uint64_t>((least + homes - 1) / homes)) ^ seed;
}

// The part of a row-wise split that has the key. By other bits than its home: the keys of a part have homes all over its index.
static inline uint32_t part_of(uint64_t key, uint32_t parts) { return static_cast<uint32_t>((mix64(key) & 0xffffffffu) * parts >> 32); }

// What is the same for all slots of an index.
struct SlotLayout {
  explicit SlotLayout(uint64_t homes) : row_bits(shift_of(homes) - kDistanceBits), place(~0ull << row_bits) {}
  uint32_t row_bits;  // of a word
  uint64_t place;     // its other bits: remainder and distance
};

// Which of a bucket's slots begin with these bits, a bit each; bits beyond are undefined.
static inline uint32_t equal_slots(const unsigned char* bucket, uint64_t begin, const SlotLayout& layout) {
  uint32_t equal = 0;
  for (uint32_t slot = 0; slot < kBucketKeys; ++slot)
    equal |= static_cast<uint32_t>((load<uint64_t>(bucket + slot * 8) & layout.place) == begin) << slot;
  return equal;
}

static inline uint64_t row_of_slot(const unsigned char* bucket, uint32_t slot, const SlotLayout& layout) {
  return (load<uint64_t>(bucket + slot * 8) & ~layout.place) | static_cast<uint64_t>(bucket[kHighRowsAt + slot]) << layout.row_bits;
}

static constexpr uint64_t kNoRow = ~0ull;

// The row of the slot that `equal` names, if the table has that row; else kNoRow.
static inline uint64_t row_in(const unsigned char* bucket, uint32_t equal, const SlotLayout& layout, uint64_t num_rows) {
  const uint32_t found = equal & ((1u << kBucketKeys) - 1);
  if (found == 0) return kNoRow;
  uint64_t row = row_of_slot(bucket, static_cast<uint32_t>(__builtin_ctz(found)), layout);
  // Keeps the compiler from reading it a second time after the check: the file may change meanwhile.
  __asm__("" : "+r"(row));
  return row < num_rows ? row : kNoRow;
}

// How many buckets behind its home the keys lie that it has no room for, at most; none of them behind the last bucket.
static inline uint64_t reach_of(const KeyIndex& index, uint64_t home) {
  const uint64_t told = index.buckets[home * kBucketBytes + kReachAt], behind = index.num_buckets - 1 - home;
  uint64_t reach = told < behind ? told : behind;
  __asm__("" : "+r"(reach));
  return reach < kMaxReach ? reach : kMaxReach;
}

// The row of a key that does not lie in its home; kNoRow when the index does not have it.
static inline uint64_t find_displaced(const KeyIndex& index, const KeyPlace& place, uint64_t num_rows) {
  const SlotLayout layout(index.homes);
  const uint64_t reach = reach_of(index, place.home);
  for (uint64_t distance = 1; distance <= reach; ++distance) {
    const unsigned char* const bucket = index.buckets + (place.home + distance) * kBucketBytes;
    const uint64_t begin = place.remainder | distance << layout.row_bits;
    const uint64_t row = row_in(bucket, equal_slots(bucket, begin, layout), layout, num_rows);
    if (row != kNoRow) return row;
  }
  return kNoRow;
}

// The row of a key; kNoRow when the index does not have it.
static inline uint64_t find_row(const KeyIndex& index, uint64_t key, uint64_t num_rows) {
  const SlotLayout layout(index.homes);
  const KeyPlace place = place_of(key, index.seed, index.homes);
  const unsigned char* const home = index.buckets + place.home * kBucketBytes;
  const uint64_t row = row_in(home, equal_slots(home, place.remainder, layout), layout, num_rows);
  return row != kNoRow ? row : find_displaced(index, place, num_rows);
}

}  // namespace terabag
