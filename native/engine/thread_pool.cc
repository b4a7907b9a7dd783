#include "engine/thread_pool.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace terabag {
namespace {

unsigned number_of_threads() {
  if (const char* text = std::getenv("TERABAG_THREADS"); text != nullptr) {
    char* end = nullptr;
    const long number = std::strtol(text, &end, 10);
    if (end != text && *end == '\0' && number >= 1 && number <= 256) return static_cast<unsigned>(number);
  }
  const unsigned cores = std::thread::hardware_concurrency();
  return std::clamp(cores, 2u, 5u) - 1;
}

}  // namespace

ThreadPool& ThreadPool::shared() {
  static ThreadPool* const pool = new ThreadPool(number_of_threads());
  return *pool;
}

ThreadPool::ThreadPool(unsigned num_threads) {
  for (unsigned i = 0; i < num_threads; ++i) std::thread([this] { work(); }).detach();
}

void ThreadPool::submit(std::function<void()> job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  ready_.notify_one();
}

void ThreadPool::work() {
  for (;;) {
    std::unique_lock<std::mutex> lock(mutex_);
    ready_.wait(lock, [this] { return !jobs_.empty(); });
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
  }
}

}  // namespace terabag
