#include "wire/zeromq_socket.h"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace terabag {
namespace {

// Numbers of libzmq's zmq.h.
enum Type { kPair = 0, kDealer = 5, kRouter = 6 };
enum ContextOption { kMaxSockets = 2, kBlocky = 70 };
enum Option {
  kDescriptor = 14,
  kEvents = 15,
  kLinger = 17,
  kReconnectMs = 18,
  kBacklog = 19,
  kMaxMessageBytes = 22,
  kSendHighWaterMark = 23,
  kReceiveHighWaterMark = 24,
  kLastEndpoint = 32,
  kRouterMandatory = 33,
  kIpv6 = 42,
  kHandshakeMs = 66,
  kConnectMs = 79,
  kTcpMaxRetransmitMs = 80,
};
enum Flag { kDontWait = 1, kSendMore = 2 };
enum PollEvent { kPollIn = 1 };
enum MonitorEvent : uint16_t { kConnectRetried = 0x0004, kAccepted = 0x0020, kDisconnected = 0x0200, kHandshakeSucceeded = 0x1000 };
// Days, after which nobody waits. With 0, libzmq would drop what has arrived and is not received yet.
constexpr int kNeverMs = 1 << 30;

[[noreturn]] void fail(const ZeromqApi& zmq) {
  const int number = zmq.error();
  throw ZeromqError(number, zmq.error_text(number));
}

}  // namespace

std::shared_ptr<ZeromqContext> ZeromqContext::shared(const ZeromqApi& api) {
  static std::mutex mutex;
  static std::weak_ptr<ZeromqContext> current;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<ZeromqContext> context = current.lock();
  if (context != nullptr) return context;
  void* handle = api.ctx_new();
  if (handle == nullptr) return nullptr;
  // Sockets linger for as long as they say, not for ever.
  api.ctx_set(handle, kBlocky, 0);
  // A connection takes three, and a main shard may have a thousand.
  api.ctx_set(handle, kMaxSockets, 16384);
  context.reset(new ZeromqContext(api, handle));
  current = context;
  return context;
}

ZeromqContext::~ZeromqContext() {
  while (api.ctx_term(handle) != 0 && api.error() == EINTR) {
  }
}

ZeromqSocket::ZeromqSocket(std::shared_ptr<ZeromqContext> context, const ZeromqSocketOptions& options)
    : context_(std::move(context)), zmq_(context_->api), router_(options.router) {
  socket_ = zmq_.socket(context_->handle, router_ ? kRouter : kDealer);
  if (socket_ == nullptr) fail(zmq_);
  try {
    // Every default that can hang or queue without bound.
    set(kLinger, 0, sizeof(int));
    set(kSendHighWaterMark, options.high_water_mark, sizeof(int));
    set(kReceiveHighWaterMark, options.high_water_mark, sizeof(int));
    set(kMaxMessageBytes, options.max_message_bytes, sizeof(int64_t));
    set(kHandshakeMs, options.handshake_ms, sizeof(int));
    set(kTcpMaxRetransmitMs, options.tcp_max_retransmit_ms, sizeof(int));
    set(kIpv6, options.ipv6 ? 1 : 0, sizeof(int));
    if (router_) {
      // A peer that is not there is an error, not a silent drop.
      set(kRouterMandatory, 1, sizeof(int));
      if (options.backlog > 0) {
        set(kBacklog, options.backlog, sizeof(int));
        watch(kAccepted);
      }
    } else {
      // Not ZMQ_IMMEDIATE: with it, messages that have arrived and are not received yet are lost when the peer goes.
      // libzmq itself would give the next peer what this one has not taken, before anybody knows of it.
      set(kReconnectMs, kNeverMs, sizeof(int));
      set(kConnectMs, options.connect_ms, sizeof(int));
      watch(kConnectRetried | kDisconnected | kHandshakeSucceeded);
    }
  } catch (...) {
    close(0);
    throw;
  }
}

ZeromqSocket::~ZeromqSocket() {
  if (!closed()) close(0);
}

// Few events: libzmq's I/O thread waits when thousands are not read.
void ZeromqSocket::watch(int wanted) {
  static std::atomic<uint64_t> last_number = 0;
  const std::string events = "inproc://events-" + std::to_string(++last_number);
  if (zmq_.socket_monitor(socket_, events.c_str(), wanted) != 0) fail(zmq_);
  monitor_ = zmq_.socket(context_->handle, kPair);
  if (monitor_ == nullptr || zmq_.connect(monitor_, events.c_str()) != 0) fail(zmq_);
  // Its descriptor tells only of what comes after somebody has asked.
  next_event();
}

void* ZeromqSocket::open() const {
  if (socket_ == nullptr) throw std::logic_error("closed");
  return socket_;
}

void ZeromqSocket::set(int option, int64_t value, size_t length) const {
  const int narrow = static_cast<int>(value);
  const void* bytes = length == sizeof(int) ? static_cast<const void*>(&narrow) : &value;
  if (zmq_.setsockopt(open(), option, bytes, length) != 0) fail(zmq_);
}

void ZeromqSocket::connect(const std::string& endpoint) {
  if (zmq_.connect(open(), endpoint.c_str()) != 0) fail(zmq_);
}

void ZeromqSocket::disconnect(const std::string& endpoint) {
  if (zmq_.disconnect(open(), endpoint.c_str()) != 0) fail(zmq_);
}

std::string ZeromqSocket::bind(const std::string& endpoint) {
  if (zmq_.bind(open(), endpoint.c_str()) != 0) fail(zmq_);
  char bound[1024] = {};
  size_t length = sizeof bound;
  if (zmq_.getsockopt(socket_, kLastEndpoint, bound, &length) != 0) fail(zmq_);
  return bound;
}

void ZeromqSocket::unbind(const std::string& endpoint) {
  if (zmq_.unbind(open(), endpoint.c_str()) != 0) fail(zmq_);
}

int ZeromqSocket::descriptor_of(void* socket) const {
  int descriptor = -1;
  size_t length = sizeof descriptor;
  if (zmq_.getsockopt(socket, kDescriptor, &descriptor, &length) != 0) fail(zmq_);
  return descriptor;
}
int ZeromqSocket::descriptor() const { return descriptor_of(open()); }
int ZeromqSocket::event_descriptor() const {
  open();
  return monitor_ == nullptr ? -1 : descriptor_of(monitor_);
}

bool ZeromqSocket::take_frame(ZeromqMessage* message) const {
  zmq_.msg_init(message);
  int received;
  do received = zmq_.msg_recv(message, socket_, kDontWait);
  while (received < 0 && zmq_.error() == EINTR);
  return received >= 0;
}

// Frames of one message arrive together.
void ZeromqSocket::drop_rest(bool more) const {
  while (more) {
    ZeromqMessage frame;
    if (!take_frame(&frame)) return;
    more = zmq_.msg_more(&frame) != 0;
    zmq_.msg_close(&frame);
  }
}

bool ZeromqSocket::receive() {
  open();
  drop();
  for (;;) {
    if (router_) {
      ZeromqMessage name;
      if (!take_frame(&name)) return false;
      peer_.assign(static_cast<const char*>(zmq_.msg_data(&name)), zmq_.msg_size(&name));
      const bool more = zmq_.msg_more(&name) != 0;
      zmq_.msg_close(&name);
      if (!more) continue;  // A name and nothing else.
    }
    if (!take_frame(&message_)) return false;
    drop_rest(zmq_.msg_more(&message_) != 0);
    held_ = true;
    return true;
  }
}

std::span<const unsigned char> ZeromqSocket::body() const {
  if (!held_) throw std::logic_error("no message is held");
  return {static_cast<const unsigned char*>(zmq_.msg_data(&message_)), zmq_.msg_size(&message_)};
}

void ZeromqSocket::drop() {
  if (held_) zmq_.msg_close(&message_);
  held_ = false;
}

std::unique_ptr<ReceivedMessage> ZeromqSocket::give_away() {
  if (!held_) throw std::logic_error("no message is held");
  held_ = false;
  return std::make_unique<ReceivedMessage>(zmq_, message_);
}

bool ZeromqSocket::readable() const {
  int events = 0;
  size_t length = sizeof events;
  return zmq_.getsockopt(open(), kEvents, &events, &length) == 0 && (events & kPollIn) != 0;
}

bool ZeromqSocket::send(const std::string& peer, std::span<const std::span<const unsigned char>> parts) {
  open();
  size_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  OutgoingMessage message(*this, bytes);
  if (message.data() == nullptr) return false;
  unsigned char* to = message.data();
  for (const auto& part : parts) {
    if (!part.empty()) std::memcpy(to, part.data(), part.size());
    to += part.size();
  }
  return message.send_to(peer);
}

// Takes the message, sent or not. A router that has taken the name of a peer takes what follows: nothing may fail in between.
bool ZeromqSocket::give(const std::string& peer, ZeromqMessage* message) const {
  if (router_) {
    ZeromqMessage name;
    if (zmq_.msg_init_size(&name, peer.size()) != 0) {
      zmq_.msg_close(message);
      return false;
    }
    std::memcpy(zmq_.msg_data(&name), peer.data(), peer.size());
    if (!give_frame(&name, kDontWait | kSendMore)) {
      zmq_.msg_close(message);
      return false;
    }
  }
  return give_frame(message, kDontWait);
}

bool ZeromqSocket::give_frame(ZeromqMessage* message, int flags) const {
  int sent;
  do sent = zmq_.msg_send(message, socket_, flags);
  while (sent < 0 && zmq_.error() == EINTR);
  if (sent < 0) zmq_.msg_close(message);
  return sent >= 0;
}

ZeromqSocket::Event ZeromqSocket::next_event() {
  open();
  if (monitor_ == nullptr) return kNone;
  ZeromqMessage message;
  zmq_.msg_init(&message);
  // Frames: the event (uint16) and its value, and the endpoint.
  if (zmq_.msg_recv(&message, monitor_, kDontWait) < 0) return kNone;
  uint16_t event = 0;
  if (zmq_.msg_size(&message) >= sizeof event) std::memcpy(&event, zmq_.msg_data(&message), sizeof event);
  while (zmq_.msg_more(&message) != 0) {
    zmq_.msg_close(&message);
    zmq_.msg_init(&message);
    if (zmq_.msg_recv(&message, monitor_, kDontWait) < 0) break;
  }
  zmq_.msg_close(&message);
  if (event == kAccepted) return kAccept;
  return event == kHandshakeSucceeded ? kHandshake : kDisconnect;
}

void ZeromqSocket::close(int linger_ms) {
  drop();
  if (socket_ == nullptr) return;
  if (monitor_ != nullptr) {
    zmq_.socket_monitor(socket_, nullptr, 0);
    const int none = 0;
    zmq_.setsockopt(monitor_, kLinger, &none, sizeof none);
    zmq_.close(monitor_);
  }
  zmq_.setsockopt(socket_, kLinger, &linger_ms, sizeof linger_ms);
  zmq_.close(socket_);
  socket_ = monitor_ = nullptr;
  context_.reset();
}

OutgoingMessage::OutgoingMessage(const ZeromqSocket& socket, size_t bytes) : socket_(socket) {
  if (socket.zmq_.msg_init_size(&message_, bytes) == 0) data_ = static_cast<unsigned char*>(socket.zmq_.msg_data(&message_));
}

OutgoingMessage::~OutgoingMessage() {
  if (data_ != nullptr) socket_.zmq_.msg_close(&message_);
}

bool OutgoingMessage::send_to(const std::string& peer) {
  data_ = nullptr;
  return socket_.give(peer, &message_);
}

}  // namespace terabag
