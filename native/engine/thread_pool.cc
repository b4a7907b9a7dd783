#include "engine/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace terabag {
namespace {

// A number of the environment.
struct Setting {
  const char* name;
  long least, most;
};
constexpr Setting kThreads{"TERABAG_THREADS", 1, 256}, kSpinUs{"TERABAG_SPIN_US", 0, 1000};

bool is_set(const Setting& setting) {
  const char* text = std::getenv(setting.name);
  return text != nullptr && *text != '\0';
}

// None when it is not set, or no integer in its range.
std::optional<unsigned> number_of(const Setting& setting) {
  if (!is_set(setting)) return std::nullopt;
  char* end = nullptr;
  const long number = std::strtol(std::getenv(setting.name), &end, 10);
  return *end == '\0' && number >= setting.least && number <= setting.most ? std::optional(static_cast<unsigned>(number)) : std::nullopt;
}

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// One call of parallel. Threads that come late find no part left, and touch nothing of the caller's.
struct Parts {
  Parts(const std::function<void(uint32_t)>& run, uint32_t number) : part(run), count(number) {}

  const std::function<void(uint32_t)>& part;
  const uint32_t count;
  std::atomic<uint32_t> next{0};
  std::mutex mutex;
  std::condition_variable all_done;
  uint32_t done = 0;

  void take() {
    uint32_t ran = 0;
    for (uint32_t i = next++; i < count; i = next++, ++ran) part(i);
    if (ran == 0) return;
    std::lock_guard<std::mutex> lock(mutex);
    done += ran;
    if (done == count) all_done.notify_all();
  }
};

}  // namespace

ThreadPool& ThreadPool::shared() {
  // Asking for the number of cores reads files, for 8 us.
  static ThreadPool* const pool = [] {
    const unsigned cores = std::thread::hardware_concurrency();
    return new ThreadPool(number_of(kThreads).value_or(std::clamp(cores, 2u, 5u) - 1), number_of(kSpinUs).value_or(cores < 8 ? 0 : 20));
  }();
  return *pool;
}

std::string ThreadPool::settings_error() {
  for (const Setting& setting : {kThreads, kSpinUs}) {
    if (!is_set(setting) || number_of(setting)) continue;
    return std::string(setting.name) + " has to be an integer between " + std::to_string(setting.least) + " and " +
           std::to_string(setting.most) + ": " + std::getenv(setting.name);
  }
  return {};
}

ThreadPool::ThreadPool(unsigned num_threads, unsigned spin_us) : spin_us_(spin_us) {
  unsigned started = 0;
  try {
    for (; started < num_threads; ++started) std::thread([this] { work(); }).detach();
  } catch (const std::system_error&) {
    // The system gives no more threads, or no memory for their stacks: those that run share the jobs, and the first job tries again if
    // there is none.
  }
  has_thread_ = started > 0;
  num_threads_ = std::max(started, 1u);
}

void ThreadPool::submit(std::function<void()> job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!has_thread_) std::thread([this] { work(); }).detach();
    has_thread_ = true;
    jobs_.push_back(std::move(job));
    ++num_jobs_;
  }
  ready_.notify_one();
}

void ThreadPool::parallel(uint32_t parts, const std::function<void(uint32_t)>& part) {
  std::shared_ptr<Parts> shared;
  try {
    if (parts > 1) shared = std::make_shared<Parts>(part, parts);
    for (uint32_t helper = 1; helper < std::min(parts, num_threads_); ++helper) submit([shared] { shared->take(); });
  } catch (const std::exception&) {
    // Fewer helpers, or none: this thread takes what they would have.
  }
  if (shared == nullptr) {
    for (uint32_t i = 0; i < parts; ++i) part(i);
    return;
  }
  shared->take();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == parts; });
}

void ThreadPool::work() {
  for (;;) {
    if (spin_us_ > 0) {
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us_);
      while (num_jobs_ == 0 && std::chrono::steady_clock::now() < until) pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    ready_.wait(lock, [this] { return !jobs_.empty(); });
    const std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    --num_jobs_;
    lock.unlock();
    job();
  }
}

}  // namespace terabag
