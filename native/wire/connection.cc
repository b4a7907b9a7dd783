#include "wire/connection.h"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#define TERABAG_POSIX 1
#endif
#if defined(__linux__)
#include <cstring>
#endif

namespace terabag {
namespace {

// Frames of ZMTP have two bytes before short bodies, nine before long ones.
constexpr size_t kShortBody = 255, kShortHeader = 2, kLongHeader = 9;
// What CURVE puts around a message: a command's name, a nonce, flags and a MAC (CurveZMQ).
constexpr size_t kCurveBytes = 33;

size_t framed(size_t bytes) { return bytes + (bytes > kShortBody ? kLongHeader : kShortHeader); }

#if defined(__linux__)
// Of linux/tcp.h; headers of older C libraries end before.
constexpr size_t kBytesReceivedAt = 128;
#endif

// Not SO_COOKIE: emulators, sandboxes and other systems do not know it.
std::optional<SocketIdentity> identity_of(int descriptor) {
#if TERABAG_POSIX
  struct stat status;
  if (fstat(descriptor, &status) != 0 || !S_ISSOCK(status.st_mode)) return std::nullopt;
  return SocketIdentity{static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino)};
#else
  static_cast<void>(descriptor);
  return std::nullopt;
#endif
}

}  // namespace

std::shared_ptr<Connection> Connection::of(int descriptor, bool encrypted) {
  const std::optional<SocketIdentity> identity = identity_of(descriptor);
  return identity ? std::shared_ptr<Connection>(new Connection(descriptor, *identity, encrypted)) : nullptr;
}

bool Connection::is_there() const { return identity_of(descriptor_) == identity_; }

void Connection::count_message(size_t bytes) {
  messages_.fetch_add(1, std::memory_order_relaxed);
  received_bytes_.fetch_add(static_cast<int64_t>(framed(encrypted_ ? bytes + kCurveBytes : bytes)), std::memory_order_relaxed);
}

std::optional<int64_t> Connection::unread_bytes() const {
#if defined(__linux__)
  unsigned char info[256];
  socklen_t length = sizeof info;
  int64_t bytes = 0;
  if (getsockopt(descriptor_, IPPROTO_TCP, TCP_INFO, info, &length) == 0 && length >= kBytesReceivedAt + sizeof bytes && is_there()) {
    std::memcpy(&bytes, info + kBytesReceivedAt, sizeof bytes);
    return bytes - received_bytes_.load(std::memory_order_relaxed);
  }
#endif
  return std::nullopt;
}

#if TERABAG_POSIX
bool Connection::input_waits() const {
  int bytes = 0;
  return ioctl(descriptor_, FIONREAD, &bytes) == 0 && bytes > 0;
}

void Connection::shut() const {
  // A descriptor of our own, which nobody else closes between the question and the answer.
  const int own = fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return;
  if (identity_of(own) == identity_) {
    // A reset when libzmq closes it, which it does when there is nothing to read any more: the system keeps nothing of it.
    const linger now = {1, 0};
    setsockopt(own, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    shutdown(own, SHUT_RDWR);
  }
  close(own);
}
#else
bool Connection::input_waits() const { return false; }
void Connection::shut() const {}
#endif

}  // namespace terabag
