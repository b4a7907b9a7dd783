#include "wire/send_memory.h"

#include <sys/mman.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace terabag {
namespace {

// malloc keeps what is smaller, and for the most part what it was ever asked for; shorter answers than that pay more for pages than for the
// rest.
constexpr size_t kMappedBytes = 128 * 1024;
constexpr size_t kPage = 4096;
// Mappings that are kept for the next messages.
constexpr size_t kKeptBytes = 64 * 1024 * 1024;
// Where data starts, behind the object; vectors are stored with aligned instructions.
constexpr size_t kOffset = 64;
// The heap is trimmed when so much more was held a moment ago.
constexpr size_t kTrimmedBytes = 32 * 1024 * 1024;

std::atomic<size_t> held_bytes{0};
std::atomic<size_t> peak_bytes{0};

// Mappings by their length.
class Mappings {
 public:
  // Eighths of a power of two, so that messages of about one length share mappings.
  static size_t capacity_of(size_t bytes) {
    const size_t step = std::max(kPage, std::bit_floor(bytes) / 8);
    return (bytes + step - 1) / step * step;
  }

  void* take(size_t capacity) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      Kept& kept = kept_[capacity];
      if (!kept.idle.empty()) {
        void* mapping = kept.idle.back();
        kept.idle.pop_back();
        kept.least = std::min(kept.least, kept.idle.size());
        kept_bytes_ -= capacity;
        return mapping;
      }
    }
    void* mapping = mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mapping == MAP_FAILED ? nullptr : mapping;
  }

  void give_back(void* mapping, size_t capacity) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (kept_bytes_ + capacity <= kKeptBytes) {
        kept_[capacity].idle.push_back(mapping);
        kept_bytes_ += capacity;
        return;
      }
    }
    munmap(mapping, capacity);
  }

  // What was never needed since the last call.
  void release_idle() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [capacity, kept] : kept_) {
      for (size_t spare = std::min(kept.least, kept.idle.size()); spare > 0; --spare) {
        munmap(kept.idle.back(), capacity);
        kept.idle.pop_back();
        kept_bytes_ -= capacity;
      }
      kept.least = kept.idle.size();
    }
  }

 private:
  struct Kept {
    std::vector<void*> idle;
    size_t least = 0;  // that lay idle at a time
  };
  std::mutex mutex_;
  std::map<size_t, Kept> kept_;
  size_t kept_bytes_ = 0;
};

// Never destroyed: libzmq's thread may release messages while the process ends.
Mappings& mappings() {
  static auto* all = new Mappings();
  return *all;
}

void note_peak(size_t held) {
  size_t peak = peak_bytes.load(std::memory_order_relaxed);
  while (held > peak && !peak_bytes.compare_exchange_weak(peak, held, std::memory_order_relaxed)) {
  }
}

}  // namespace

size_t bytes_held() { return held_bytes.load(std::memory_order_relaxed); }

SendMemory::SendMemory(size_t bytes, size_t capacity, std::shared_ptr<SendAccount> account)
    : account_(std::move(account)), bytes_(bytes), capacity_(capacity) {}

static_assert(sizeof(SendMemory) <= kOffset);

SendMemory* SendMemory::take(size_t bytes, std::shared_ptr<SendAccount> account) {
  const size_t whole = bytes + kOffset;
  const size_t capacity = whole >= kMappedBytes ? Mappings::capacity_of(whole) : 0;
  void* place = capacity > 0 ? mappings().take(capacity) : std::aligned_alloc(kOffset, (whole + kOffset - 1) / kOffset * kOffset);
  if (place == nullptr) return nullptr;
  auto* memory = new (place) SendMemory(bytes, capacity, std::move(account));
  memory->account_->held.fetch_add(bytes, std::memory_order_relaxed);
  // Release: whoever releases the memory sees what is written here.
  note_peak(held_bytes.fetch_add(bytes, std::memory_order_release) + bytes);
  return memory;
}

unsigned char* SendMemory::data() { return reinterpret_cast<unsigned char*>(this) + kOffset; }

void SendMemory::release(void*, void* memory) {
  // Acquire, before anything of it is read: libzmq hands messages from thread to thread.
  static_cast<void>(held_bytes.load(std::memory_order_acquire));
  auto* self = static_cast<SendMemory*>(memory);
  const size_t capacity = self->capacity_;
  SendAccount& account = *self->account_;
  account.held.fetch_sub(self->bytes_, std::memory_order_relaxed);
  account.released.fetch_add(self->bytes_, std::memory_order_relaxed);
  account.starved.store(false, std::memory_order_relaxed);
  held_bytes.fetch_sub(self->bytes_, std::memory_order_acq_rel);
  self->~SendMemory();
  if (capacity > 0)
    mappings().give_back(memory, capacity);
  else
    std::free(memory);
}

void release_idle_memory(bool trim) {
  mappings().release_idle();
  const size_t held = bytes_held();
  const size_t peak = peak_bytes.exchange(held, std::memory_order_relaxed);
#if defined(__GLIBC__)
  if (trim || peak > held + kTrimmedBytes) malloc_trim(0);
#else
  static_cast<void>(peak), static_cast<void>(trim);
#endif
}

}  // namespace terabag
