#pragma once
#include <chrono>
#include <cstdint>
#include <ctime>

namespace terabag {

// A clock that only grows; the same in all threads.
inline uint64_t steady_ns() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

// CPU time of the calling thread. A system call of 0.2 to 1 us: for jobs, not for bags or layers.
inline uint64_t thread_cpu_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(time.tv_nsec);
}

// What a run of a dense net says of itself when it is asked.
struct LayerTimes {
  bool reads_cpu = true;        // whether the CPU time is asked for
  uint64_t cpu_ns = 0;          // of all threads that took part
  uint64_t interaction_ns = 0;  // in dot interactions, summed over lanes
  uint64_t layers_ns = 0;       // in all layers, likewise
};

}  // namespace terabag
