#pragma once
#include <cstdint>
#include <random>

namespace terabag {

inline thread_local std::mt19937_64 random_bits{std::random_device{}()};
inline uint64_t below(uint64_t limit) { return random_bits() % limit; }

}  // namespace terabag
