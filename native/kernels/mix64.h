#pragma once
#include <cstdint>

namespace terabag {

// The finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): every bit of the key changes half
// of the result's. src/model/mix64.ts is the same. Static, so that each instruction set keeps its own copy.
static inline uint64_t mix64(uint64_t key) {
  key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
  key = (key ^ key >> 27) * 0x94d049bb133111ebu;
  return key ^ key >> 31;
}

}  // namespace terabag
