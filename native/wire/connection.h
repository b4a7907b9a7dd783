#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "wire/send_memory.h"

namespace terabag {

// Device and inode of a socket.
using SocketIdentity = std::pair<uint64_t, uint64_t>;

// A connection of a socket. Its descriptor is libzmq's, which may close it at any time, after which the system gives the number to another
// socket: of another identity, which Linux does not use again before it has made 2^32. Functions are for any thread.
class Connection {
 public:
  // nullptr when the descriptor is none of a connected socket (any more).
  static std::shared_ptr<Connection> of(int descriptor, bool encrypted);

  int descriptor() const { return descriptor_; }
  bool is_there() const;
  // Bytes that have come and were not received as messages: of messages that wait, and of one that is not whole. nullopt where the system
  // does not count them (Unix sockets).
  std::optional<int64_t> unread_bytes() const;
  // Whether bytes wait that libzmq has not read.
  bool input_waits() const;
  // Ends the connection, unless the descriptor is another's by now.
  void shut() const;

  // One whole message was received.
  void count_message(size_t bytes);
  uint64_t messages() const { return messages_.load(std::memory_order_relaxed); }

  // What the socket's own thread learns from the first message; see PeerGuard.
  std::shared_ptr<SendAccount> account;
  std::string key;  // the public key of the peer, in Z85; empty without one

 private:
  Connection(int descriptor, SocketIdentity identity, bool encrypted)
      : descriptor_(descriptor), identity_(identity), encrypted_(encrypted) {}

  const int descriptor_;
  const SocketIdentity identity_;
  const bool encrypted_;
  std::atomic<uint64_t> messages_{0};
  std::atomic<int64_t> received_bytes_{0};  // with what ZMTP adds
};

}  // namespace terabag
