#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace terabag {

// What libzmq still holds of the messages that were sent to one peer. Any thread may read it; one, of its socket, charges it.
struct SendAccount {
  std::atomic<size_t> held{0};
  // Bytes that were taken by the peer, or dropped with it.
  std::atomic<uint64_t> released{0};
  // Whether a message was refused since something was released.
  std::atomic<bool> starved{false};
};

// What all sockets of this process hold so.
size_t bytes_held();

// Memory of one message, which libzmq releases, on any thread, when the message is on its way or dropped. Large ones are mappings, of which
// few are kept for the next message: what a peer did not read goes back to the system.
class SendMemory {
 public:
  // nullptr when there is no memory. Charges the account until it is released.
  static SendMemory* take(size_t bytes, std::shared_ptr<SendAccount> account);
  unsigned char* data();
  // For libzmq.
  static void release(void* data, void* memory);

 private:
  SendMemory(size_t bytes, size_t capacity, std::shared_ptr<SendAccount> account);
  ~SendMemory() = default;

  std::shared_ptr<SendAccount> account_;
  size_t bytes_;
  size_t capacity_;  // of a mapping, with this object at its start; 0 when it is of the heap
};

// Once in a while: gives back to the system what was not needed since the last call; with trim, what lies free in the heap, too.
void release_idle_memory(bool trim);

}  // namespace terabag
