#include "wire/zeromq_socket.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <iterator>
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
  kCurveServer = 47,
  kCurvePublicKey = 48,
  kCurveSecretKey = 49,
  kCurveServerKey = 50,
  kZapDomain = 55,
  kRouterHandover = 56,
  kHandshakeMs = 66,
  kConnectMs = 79,
  kTcpMaxRetransmitMs = 80,
  kZapEnforceDomain = 93,
};
enum Flag { kDontWait = 1, kSendMore = 2 };
enum PollEvent { kPollIn = 1 };
enum MessageProperty { kSourceDescriptor = 2 };
// Names that libzmq makes: a zero and a number.
constexpr size_t kMadeNameBytes = 5;
// Of shorter messages, 4096 of which may wait, it is not counted what they hold.
constexpr size_t kCountedBytes = 1024;
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
  context->guard_ = PeerGuard::start(api, handle);
  if (context->guard_ == nullptr) return nullptr;
  current = context;
  return context;
}

ZeromqContext::~ZeromqContext() {
  guard_.reset();
  while (api.ctx_term(handle) != 0 && api.error() == EINTR) {
  }
}

// Also without keys: where libzmq asks who is let in it ends connections of ZMTP before 3 at once. It takes any bytes for a message of
// these, and aborts when one arrives while its socket is closed.
static std::string domain_of(const ZeromqSocketOptions& options) {
  static std::atomic<uint64_t> last_number = 0;
  return options.router ? "terabag-" + std::to_string(++last_number) : std::string();
}

ZeromqSocket::ZeromqSocket(std::shared_ptr<ZeromqContext> context, const ZeromqSocketOptions& options)
    : context_(std::move(context)),
      zmq_(context_->api),
      router_(options.router),
      max_message_bytes_(static_cast<size_t>(options.max_message_bytes)),
      accepts_(router_ && options.backlog > 0 ? std::make_shared<const WakeUp>() : nullptr),
      watch_(std::make_shared<SocketWatch>(options.limits, !options.keys.public_key.empty(), domain_of(options), accepts_)) {
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
    if (!options.keys.public_key.empty()) {
      if (zmq_.has("curve") != 1) throw ZeromqError(ENOTSUP, "this libzmq has no CURVE");
      set(kCurveServer, router_ ? 1 : 0, sizeof(int));
      set_keys(options.keys);
    }
    if (router_) {
      set(kZapDomain, watch_->domain());
      // Without an answer nobody is let in.
      set(kZapEnforceDomain, 1, sizeof(int));
      // A peer that is not there is an error, not a silent drop.
      set(kRouterMandatory, 1, sizeof(int));
      // The name of a peer stays its own.
      set(kRouterHandover, 0, sizeof(int));
      if (options.backlog > 0) set(kBacklog, options.backlog, sizeof(int));
      if (accepts_ != nullptr && accepts_->descriptor() < 0) throw ZeromqError(EMFILE, "no file descriptor is free");
      // Nothing else: telling of a failure, libzmq can forget that it is one (errno becomes EAGAIN), and then neither reads from nor closes
      // the connection, for ever when its handshake is done, whatever the peer does or is done to it.
      watch_events(kAccepted);
    } else {
      // Not ZMQ_IMMEDIATE: with it, messages that have arrived and are not received yet are lost when the peer goes.
      // libzmq itself would give the next peer what this one has not taken, before anybody knows of it.
      set(kReconnectMs, kNeverMs, sizeof(int));
      set(kConnectMs, options.connect_ms, sizeof(int));
      watch_events(kConnected | kConnectRetried | kDisconnected | kHandshakeSucceeded | kHandshakeFailed | kHandshakeFailedProtocol |
                   kHandshakeFailedAuth);
    }
    context_->guard().add(watch_, router_ ? std::exchange(monitor_, nullptr) : nullptr);
  } catch (...) {
    close(0);
    throw;
  }
}

ZeromqSocket::~ZeromqSocket() {
  if (!closed()) close(0);
}

// Few events: libzmq's I/O thread waits when thousands are not read.
void ZeromqSocket::watch_events(int wanted) {
  static std::atomic<uint64_t> last_number = 0;
  const std::string events = "inproc://events-" + std::to_string(++last_number);
  if (zmq_.socket_monitor(socket_, events.c_str(), wanted) != 0) fail(zmq_);
  monitor_ = zmq_.socket(context_->handle, kPair);
  if (monitor_ == nullptr || zmq_.connect(monitor_, events.c_str()) != 0) fail(zmq_);
  // Its descriptor tells only of what comes after somebody has asked.
  next_socket_event(zmq_, monitor_);
}

void ZeromqSocket::set_keys(const CurveKeys& keys) {
  set(kCurvePublicKey, keys.public_key);
  set(kCurveSecretKey, keys.secret_key);
  if (!router_) set(kCurveServerKey, keys.server_key);
}

void ZeromqSocket::set(int option, const std::string& value) const {
  if (zmq_.setsockopt(open(), option, value.data(), value.size()) != 0) fail(zmq_);
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
  watch_->connects(endpoint);
  if (zmq_.connect(open(), endpoint.c_str()) != 0) fail(zmq_);
}

void ZeromqSocket::disconnect(const std::string& endpoint) {
  if (zmq_.disconnect(open(), endpoint.c_str()) != 0) fail(zmq_);
}

std::string ZeromqSocket::bind(const std::string& endpoint) {
  return watch_->bind([&] {
    if (zmq_.bind(open(), endpoint.c_str()) != 0) fail(zmq_);
    char bound[1024] = {};
    size_t length = sizeof bound;
    if (zmq_.getsockopt(socket_, kLastEndpoint, bound, &length) != 0) fail(zmq_);
    return std::string(bound);
  });
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
  if (accepts_ != nullptr) return accepts_->descriptor();
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
void ZeromqSocket::drop_rest() const {
  for (bool more = true; more;) {
    ZeromqMessage frame;
    if (!take_frame(&frame)) return;
    more = zmq_.msg_more(&frame) != 0;
    zmq_.msg_close(&frame);
  }
}

bool ZeromqSocket::take_name() {
  ZeromqMessage name;
  if (!take_frame(&name)) return false;
  peer_.assign(static_cast<const char*>(zmq_.msg_data(&name)), zmq_.msg_size(&name));
  zmq_.msg_close(&name);
  return true;
}

bool ZeromqSocket::receive() {
  open();
  drop();
  while ((!router_ || take_name()) && take_frame(&message_)) {
    held_ = true;
    const auto [peer, first] = peers_.try_emplace(peer_);
    if (admit(&peer->second, first)) return true;
    drop();
  }
  watch_->drained();
  return false;
}

// Whether the message that is held may be read.
bool ZeromqSocket::admit(Peer* peer, bool first) {
  const bool whole = zmq_.msg_more(&message_) == 0;
  if (!whole) drop_rest();
  if (first && !introduce(peer)) return false;
  if (peer->connection != nullptr) peer->connection->count_message(zmq_.msg_size(&message_));
  if (!whole) refuse(*peer, "message of several frames");
  return whole && (!router_ || peer->connection != nullptr);
}

// Of a peer's first message.
bool ZeromqSocket::introduce(Peer* peer) {
  if (!router_) return true;
  const int descriptor = zmq_.msg_get(&message_, kSourceDescriptor);
  peer->connection = descriptor < 0 ? nullptr : watch_->of_message(descriptor);
  if (peer->connection == nullptr) return false;
  const char* key = zmq_.msg_gets(&message_, "User-Id");
  const bool allowed = watch_->introduce(peer->connection.get(), peer->account, key == nullptr ? "" : key);
  const bool made = peer_.size() == kMadeNameBytes && peer_[0] == 0;
  if (allowed && made) return true;
  refuse(*peer, allowed ? "a name of its own choice" : "key is not allowed any more: " + std::string(key == nullptr ? "" : key));
  return false;
}

void ZeromqSocket::refuse(const Peer& peer, const std::string& why) {
  if (peer.connection != nullptr) watch_->cut(*peer.connection, why);
}

std::vector<std::string> ZeromqSocket::take_gone() {
  std::vector<std::string> gone;
  if (!router_) return gone;
  for (auto peer = peers_.begin(); peer != peers_.end();) {
    const bool there = peer->second.connection != nullptr && peer->second.connection->is_there();
    if (!there) gone.push_back(peer->first);
    peer = there ? std::next(peer) : peers_.erase(peer);
  }
  if (!readable()) watch_->drained();
  return gone;
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

size_t ZeromqSocket::room_of(const SendAccount& account) const {
  const auto left = [](size_t budget, size_t held) { return budget > held ? budget - held : 0; };
  // One message of any length may always be sent to a peer that has taken what came before.
  const size_t held = account.held.load(std::memory_order_relaxed);
  const size_t of_peer = held == 0 ? SIZE_MAX : left(watch_->limits().unsent_bytes, held);
  return std::min({of_peer, left(watch_->limits().unsent_process_bytes, bytes_held()), max_message_bytes_});
}

ZeromqSocket::Peer* ZeromqSocket::known(const std::string& peer) {
  const auto found = peers_.find(peer);
  return found == peers_.end() ? nullptr : &found->second;
}

size_t ZeromqSocket::room(const std::string& peer) {
  const Peer* of = known(peer);
  return of == nullptr ? 0 : room_of(*of->account);
}

bool ZeromqSocket::send(const std::string& peer, std::span<const std::span<const unsigned char>> parts) {
  open();
  size_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  OutgoingMessage message(*this, peer, bytes);
  if (message.data() == nullptr) return false;
  unsigned char* to = message.data();
  for (const auto& part : parts) {
    if (!part.empty()) std::memcpy(to, part.data(), part.size());
    to += part.size();
  }
  return message.send();
}

// Takes the message, sent or not. A router that has taken the name of a peer takes what follows: nothing may fail in between.
bool ZeromqSocket::give(const std::string& peer, ZeromqMessage* message) {
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
  if (accepts_ != nullptr) return accepts_->take() ? kAccept : kNone;
  if (monitor_ == nullptr) return kNone;
  for (;;) {
    const SocketEvent event = next_socket_event(zmq_, monitor_);
    switch (event.event) {
      case 0: return kNone;
      case kConnected:
        failure_ = 0;
        peers_.clear();
        peers_[{}].connection = watch_->opened(static_cast<int>(event.value));
        break;
      case kHandshakeFailed:
      case kHandshakeFailedProtocol:
      case kHandshakeFailedAuth:
        // It is told of a disconnect, too.
        failure_ = event.event;
        break;
      case kHandshakeSucceeded: return kHandshake;
      default: return kDisconnect;
    }
  }
}

void ZeromqSocket::close(int linger_ms) {
  drop();
  if (socket_ == nullptr) return;
  zmq_.socket_monitor(socket_, nullptr, 0);
  context_->guard().remove(watch_);
  if (monitor_ != nullptr) {
    const int none = 0;
    zmq_.setsockopt(monitor_, kLinger, &none, sizeof none);
    zmq_.close(monitor_);
  }
  zmq_.setsockopt(socket_, kLinger, &linger_ms, sizeof linger_ms);
  zmq_.close(socket_);
  socket_ = monitor_ = nullptr;
  context_.reset();
}

OutgoingMessage::OutgoingMessage(ZeromqSocket& socket, const std::string& peer, size_t bytes) : socket_(socket), peer_(peer) {
  const bool made = bytes < kCountedBytes ? socket.zmq_.msg_init_size(&message_, bytes) == 0 : charge(bytes);
  if (made) data_ = static_cast<unsigned char*>(socket.zmq_.msg_data(&message_));
}

bool OutgoingMessage::charge(size_t bytes) {
  ZeromqSocket::Peer* of = socket_.known(peer_);
  if (of == nullptr) return false;
  if (socket_.room_of(*of->account) < bytes) {
    of->account->starved.store(true, std::memory_order_relaxed);
    return false;
  }
  SendMemory* memory = SendMemory::take(bytes, of->account);
  if (memory == nullptr) return false;
  if (socket_.zmq_.msg_init_data(&message_, memory->data(), bytes, SendMemory::release, memory) == 0) return true;
  SendMemory::release(nullptr, memory);
  return false;
}

OutgoingMessage::~OutgoingMessage() {
  if (data_ != nullptr) socket_.zmq_.msg_close(&message_);
}

bool OutgoingMessage::send() {
  data_ = nullptr;
  return socket_.give(peer_, &message_);
}

}  // namespace terabag
