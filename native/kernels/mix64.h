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

// The key whose mix64 this is: with the inverses of the odd factors, modulo 2^64.
static inline uint64_t unmix64(uint64_t mixed) {
  mixed = (mixed ^ mixed >> 31 ^ mixed >> 62) * 0x319642b2d24d8ec3u;
  mixed = (mixed ^ mixed >> 27 ^ mixed >> 54) * 0x96de1b173f119089u;
  return mixed ^ mixed >> 30 ^ mixed >> 60;
}

}  // namespace terabag
