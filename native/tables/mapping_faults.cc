#include "tables/mapping_faults.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>

namespace terabag {

// In a list that only grows, so that a signal handler can walk it at any moment; what is not mapped any more is used again.
struct MappingFaults::Mapping {
  std::atomic<uintptr_t> start = 0;  // 0: not in use
  uint64_t size = 0;
  char path[1024] = {};
  Mapping* next = nullptr;
};

namespace {
std::mutex mappings_mutex;
}  // namespace

struct FaultHandler {
  using Mapping = MappingFaults::Mapping;
  static std::atomic<Mapping*> first;

  // Only functions that are async-signal-safe (POSIX, 2.4.3).
  static void handle(int signal, siginfo_t* info, void*) {
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    for (const Mapping* mapping = first.load(std::memory_order_acquire); mapping != nullptr; mapping = mapping->next) {
      const uintptr_t start = mapping->start.load(std::memory_order_acquire);
      if (start == 0 || address < start || address - start >= mapping->size) continue;
      say("terabag: a table file was cut short while it was mapped, or its disk failed (SIGBUS); copy or publish it again: ");
      say(mapping->path);
      say("\n");
      break;
    }
    // The instruction runs again when this returns, and ends the process.
    ::signal(signal, SIG_DFL);
  }

  static void say(const char* text) {
    const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
    static_cast<void>(written);
  }

  static void install() {
    struct sigaction before;
    if (sigaction(SIGBUS, nullptr, &before) != 0 || (before.sa_flags & SA_SIGINFO) != 0 || before.sa_handler != SIG_DFL) return;
    struct sigaction ours = {};
    ours.sa_sigaction = handle;
    ours.sa_flags = SA_SIGINFO;
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, nullptr);
  }
};
std::atomic<MappingFaults::Mapping*> FaultHandler::first = nullptr;

MappingFaults::MappingFaults(const unsigned char* data, uint64_t size, const std::string& path) {
  const std::lock_guard<std::mutex> lock(mappings_mutex);
  static std::once_flag installed;
  std::call_once(installed, FaultHandler::install);
  Mapping* free = FaultHandler::first.load(std::memory_order_relaxed);
  while (free != nullptr && free->start.load(std::memory_order_relaxed) != 0) free = free->next;
  std::unique_ptr<Mapping> made;
  if (free == nullptr) {
    made = std::make_unique<Mapping>();
    made->next = FaultHandler::first.load(std::memory_order_relaxed);
    free = made.get();
  }
  mapping_ = free;
  mapping_->size = size;
  std::strncpy(mapping_->path, path.c_str(), sizeof mapping_->path - 1);
  mapping_->start.store(reinterpret_cast<uintptr_t>(data), std::memory_order_release);
  if (made != nullptr) FaultHandler::first.store(made.release(), std::memory_order_release);
}

MappingFaults::~MappingFaults() {
  const std::lock_guard<std::mutex> lock(mappings_mutex);
  mapping_->start.store(0, std::memory_order_release);
}

}  // namespace terabag
