#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace terabag {

// The addon's own threads, shared by all environments of the process: libuv's four also read files and resolve names.
// TERABAG_THREADS sets their number (1 to 256); otherwise one fewer than the cores, between 1 and 4.
class ThreadPool {
 public:
  // Started on first use, never destroyed: its threads end with the process.
  static ThreadPool& shared();
  // Runs the job on a thread, in the order of submission.
  void submit(std::function<void()> job);

 private:
  explicit ThreadPool(unsigned num_threads);
  [[noreturn]] void work();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> jobs_;
};

}  // namespace terabag
