#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "wire/peer_guard.h"
#include "wire/send_memory.h"
#include "wire/socket_watch.h"
#include "wire/wake_up.h"
#include "wire/zeromq_api.h"

namespace terabag {

// A libzmq context, with its I/O thread. Ends when nobody holds it, after what closed sockets still have to send, for as long as they
// linger.
class ZeromqContext {
 public:
  // That of this process; made anew when nobody holds one. nullptr when libzmq has no more file descriptors or memory.
  static std::shared_ptr<ZeromqContext> shared(const ZeromqApi& api);
  ~ZeromqContext();
  ZeromqContext(const ZeromqContext&) = delete;

  const ZeromqApi& api;
  void* const handle;
  PeerGuard& guard() { return *guard_; }

 private:
  ZeromqContext(const ZeromqApi& of, void* context) : api(of), handle(context) {}

  std::unique_ptr<PeerGuard> guard_;
};

// What libzmq says, with its errno.
struct ZeromqError : std::runtime_error {
  ZeromqError(int number_of, const char* text) : std::runtime_error(text), number(number_of) {}
  const int number;
};

// CURVE (rfc.zeromq.org/spec/26), as Z85. Without a public key there is none.
struct CurveKeys {
  std::string public_key, secret_key;
  std::string server_key;  // of a client: that of its server
};

struct ZeromqSocketOptions {
  bool router;  // else a dealer
  int backlog;  // Of a router: connections that may wait to be accepted; the events are those that were. 0: libzmq's default, and no
                // events.
  CurveKeys keys;
  PeerLimits limits;
  bool ipv6;
  int high_water_mark;  // messages, in each direction
  int64_t max_message_bytes;
  int handshake_ms;
  int tcp_max_retransmit_ms;
  int connect_ms;  // Of a dealer.
};

// A message that is nobody's but the holder's.
class ReceivedMessage {
 public:
  ReceivedMessage(const ZeromqApi& zmq, const ZeromqMessage& message) : zmq_(zmq), message_(message) {}
  ~ReceivedMessage() { zmq_.msg_close(&message_); }
  ReceivedMessage(const ReceivedMessage&) = delete;
  std::span<unsigned char> bytes() { return {static_cast<unsigned char*>(zmq_.msg_data(&message_)), zmq_.msg_size(&message_)}; }

 private:
  const ZeromqApi& zmq_;
  ZeromqMessage message_;
};

// A DEALER, whose messages are one frame, or a ROUTER, whose messages are one frame behind the name of the peer. Who sends more frames is
// cut off, and so is who breaks another limit, or has chosen the name itself. Never blocks. Not for two threads at once. Every function but
// the constructor and the destructor throws std::logic_error when it is closed.
class ZeromqSocket {
 public:
  enum Event { kNone, kHandshake, kDisconnect, kAccept };

  // Throws ZeromqError. Closing lets nothing linger unless close says otherwise.
  ZeromqSocket(std::shared_ptr<ZeromqContext> context, const ZeromqSocketOptions& options);
  ~ZeromqSocket();
  ZeromqSocket(const ZeromqSocket&) = delete;

  // Throw ZeromqError. bind returns the endpoint with the port that it got. A dealer connects once: after
  // kDisconnect, disconnect and connect anew.
  void connect(const std::string& endpoint);
  // Drops what was not sent, and what was not received.
  void disconnect(const std::string& endpoint);
  std::string bind(const std::string& endpoint);
  // Accepts nobody more; those that are connected stay so.
  void unbind(const std::string& endpoint);

  // For connections from now on; those that there are keep theirs. Only of a socket that has keys.
  void set_keys(const CurveKeys& keys);
  // Of a router with keys: the public keys of who is let in, none at first.
  void allow(std::set<std::string> keys) { watch_->allow(std::move(keys)); }

  // Becomes readable when something happened, once: after that, and after each send, ask until nothing is left.
  int descriptor() const;
  // Likewise for events; -1 of a router that watches none.
  int event_descriptor() const;

  // Receives the next message and holds it; false when none is there. One that is held already is dropped.
  bool receive();
  // Bytes of the message that is held, and its sender.
  std::span<const unsigned char> body() const;
  const std::string& peer() const { return peer_; }
  void drop();
  // Gives the held message away.
  std::unique_ptr<ReceivedMessage> give_away();
  // Bytes that a message to the peer may have; 0 when it is not there.
  size_t room(const std::string& peer);
  // Peers whose connections have gone; to be asked again and again.
  std::vector<std::string> take_gone();
  PeerCounts peer_counts() const { return watch_->counts(); }
  std::string take_reason() { return watch_->take_reason(); }
  // Of a dealer: why the latest handshake failed, an event of MonitorEvent; 0 when none did.
  int failure() const { return failure_; }

  // Whether a message waits; after a send the descriptor does not tell.
  bool readable() const;

  // One message of all the parts, which are copied. False when a router's peer is away, nothing is connected, or the peer reads too slowly:
  // nothing of it is sent then. peer: of a router; a dealer has one.
  bool send(const std::string& peer, std::span<const std::span<const unsigned char>> parts);

  // kDisconnect also when nobody was there; of one connection it may come twice, and late.
  Event next_event();

  // The last socket of a context waits for what closed ones still send, for as long as they linger.
  void close(int linger_ms);
  bool closed() const { return socket_ == nullptr; }

 private:
  void* open() const;
  void set(int option, int64_t value, size_t length) const;
  int descriptor_of(void* socket) const;
  void set(int option, const std::string& value) const;
  void watch_events(int wanted);
  bool take_frame(ZeromqMessage* message) const;
  bool take_name();
  void drop_rest() const;
  bool give_frame(ZeromqMessage* message, int flags) const;
  bool give(const std::string& peer, ZeromqMessage* message);

  // Whom a router has heard of, or a dealer's server.
  struct Peer {
    std::shared_ptr<SendAccount> account = std::make_shared<SendAccount>();
    std::shared_ptr<Connection> connection;
  };
  Peer* known(const std::string& peer);
  bool admit(Peer* peer, bool first);
  bool introduce(Peer* peer);
  void refuse(const Peer& peer, const std::string& why);
  size_t room_of(const SendAccount& account) const;

  friend class OutgoingMessage;

  std::shared_ptr<ZeromqContext> context_;
  const ZeromqApi& zmq_;
  const bool router_;
  const size_t max_message_bytes_;
  void* socket_ = nullptr;
  void* monitor_ = nullptr;
  bool held_ = false;
  mutable ZeromqMessage message_;
  std::string peer_;
  const std::shared_ptr<const WakeUp> accepts_;
  const std::shared_ptr<SocketWatch> watch_;
  std::unordered_map<std::string, Peer> peers_;
  int failure_ = 0;
};

// Memory of a message to be sent by a socket, which it must not outlive.
class OutgoingMessage {
 public:
  OutgoingMessage(ZeromqSocket& socket, const std::string& peer, size_t bytes);
  ~OutgoingMessage();
  OutgoingMessage(const OutgoingMessage&) = delete;
  // nullptr when there is no room or memory for it, or when it was sent.
  unsigned char* data() const { return data_; }
  // Once. As ZeromqSocket::send.
  bool send();

 private:
  bool charge(size_t bytes);

  ZeromqSocket& socket_;
  const std::string peer_;
  ZeromqMessage message_;
  unsigned char* data_ = nullptr;
};

}  // namespace terabag
