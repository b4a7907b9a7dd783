#include "wire/connection.h"

#if defined(__linux__)
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

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
// Of linux/socket.h and linux/tcp.h; headers of older C libraries end before.
constexpr int kSocketCookie = 57;
constexpr size_t kBytesReceivedAt = 128;

std::optional<uint64_t> cookie_of(int descriptor) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  if (getsockopt(descriptor, SOL_SOCKET, kSocketCookie, &cookie, &length) != 0) return std::nullopt;
  return cookie;
}
#else
std::optional<uint64_t> cookie_of(int) { return std::nullopt; }
#endif

}  // namespace

std::shared_ptr<Connection> Connection::of(int descriptor, bool encrypted) {
  const std::optional<uint64_t> cookie = cookie_of(descriptor);
  return cookie ? std::shared_ptr<Connection>(new Connection(descriptor, *cookie, encrypted)) : nullptr;
}

bool Connection::is_there() const { return cookie_of(descriptor_) == cookie_; }

void Connection::count_message(size_t bytes) {
  messages_.fetch_add(1, std::memory_order_relaxed);
  received_bytes_.fetch_add(static_cast<int64_t>(framed(encrypted_ ? bytes + kCurveBytes : bytes)), std::memory_order_relaxed);
}

#if defined(__linux__)
std::optional<int64_t> Connection::unread_bytes() const {
  unsigned char info[256];
  socklen_t length = sizeof info;
  int64_t bytes = 0;
  if (getsockopt(descriptor_, IPPROTO_TCP, TCP_INFO, info, &length) != 0 || length < kBytesReceivedAt + sizeof bytes || !is_there())
    return std::nullopt;
  std::memcpy(&bytes, info + kBytesReceivedAt, sizeof bytes);
  return bytes - received_bytes_.load(std::memory_order_relaxed);
}

bool Connection::input_waits() const {
  int bytes = 0;
  return ioctl(descriptor_, FIONREAD, &bytes) == 0 && bytes > 0;
}

void Connection::shut() const {
  // A descriptor of our own, which nobody else closes between the question and the answer.
  const int own = fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return;
  if (cookie_of(own) == cookie_) {
    // A reset when libzmq closes it, which it does when there is nothing to read any more: the system keeps nothing of it.
    const linger now = {1, 0};
    setsockopt(own, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    shutdown(own, SHUT_RDWR);
  }
  close(own);
}
#else
std::optional<int64_t> Connection::unread_bytes() const { return std::nullopt; }
bool Connection::input_waits() const { return false; }
void Connection::shut() const {}
#endif

}  // namespace terabag
