#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>

namespace terabag {

// The addon's own threads, shared by all environments of the process: libuv's four also read files and resolve names.
// TERABAG_THREADS sets their number (1 to 256); otherwise one fewer than the cores, between 1 and 4.
// TERABAG_SPIN_US (0 to 1000) is how long an idle thread looks for work before it sleeps: a wake-up costs 20 to 55 us, spinning costs a
// core. It is 0 on fewer than 8 cores, otherwise 20.
class ThreadPool {
 public:
  // Started on first use, never destroyed: its threads end with the process.
  static ThreadPool& shared();
  // What is wrong with the two settings, or nothing: shared() passes over numbers that it cannot use.
  static std::string settings_error();
  // Runs the job on a thread, in the order of submission. Throws std::bad_alloc or, when the system has not given a single thread yet,
  // std::system_error; the job does not run then.
  void submit(std::function<void()> job);
  // Calls part(0) to part(parts - 1), each once, on this thread and on those that are idle; returns when all have returned. No part may
  // throw.
  void parallel(uint32_t parts, const std::function<void(uint32_t)>& part);
  // At least 1; fewer than asked for when the system gives no more.
  unsigned num_threads() const { return num_threads_; }

 private:
  ThreadPool(unsigned num_threads, unsigned spin_us);
  [[noreturn]] void work();

  unsigned num_threads_ = 1;
  const unsigned spin_us_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> jobs_;
  bool has_thread_ = false;
  std::atomic<uint64_t> num_jobs_{0};  // of the queue, for those who look without the lock
};

}  // namespace terabag
