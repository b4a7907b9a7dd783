#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "wire/socket_watch.h"
#include "wire/wake_up.h"
#include "wire/zeromq_api.h"

namespace terabag {

// A thread that keeps the peers of a context's sockets within their limits, whatever the event loops do: it hears of connections
// (monitors), says who is let in (ZAP, rfc.zeromq.org/spec/27), and looks at the connections again and again.
class PeerGuard {
 public:
  // nullptr without file descriptors, or when somebody else answers ZAP in this context.
  static std::unique_ptr<PeerGuard> start(const ZeromqApi& zmq, void* context);
  // Its sockets are closed then.
  ~PeerGuard();
  PeerGuard(const PeerGuard&) = delete;

  // monitor: that of a listener, whose events are the guard's from now on; nullptr of others.
  void add(std::shared_ptr<SocketWatch> watch, void* monitor);
  void remove(const std::shared_ptr<SocketWatch>& watch);

 private:
  struct Guarded {
    std::shared_ptr<SocketWatch> watch;
    void* monitor;
  };

  PeerGuard(const ZeromqApi& zmq, void* context, void* zap) : zmq_(zmq), context_(context), zap_(zap) {}
  void run();
  void take_changes();
  void wait(long ms);
  void answer_zap();
  void reply(const std::string& id, const char* status, const std::string& user);
  void take_events(Guarded* guarded);
  void sweep();
  bool cut_lately();

  const ZeromqApi& zmq_;
  void* const context_;
  void* const zap_;
  const WakeUp wake_up_;
  std::atomic<bool> ending_{false};
  std::mutex mutex_;
  std::vector<Guarded> added_;
  std::vector<std::shared_ptr<SocketWatch>> removed_;
  std::vector<Guarded> guarded_;  // of the thread
  uint64_t last_cut_ = 0;
  int trims_ = 0;
  std::thread thread_;
};

// Takes the frames of the next message, without waiting; none when there is none.
std::vector<std::string> receive_frames(const ZeromqApi& zmq, void* socket);

// Events of sockets, numbers of libzmq's zmq.h.
enum MonitorEvent : uint16_t {
  kConnected = 0x0001,
  kConnectRetried = 0x0004,
  kAccepted = 0x0020,
  kDisconnected = 0x0200,
  kHandshakeFailed = 0x0800,
  kHandshakeSucceeded = 0x1000,
  kHandshakeFailedProtocol = 0x2000,
  kHandshakeFailedAuth = 0x4000,
};
struct SocketEvent {
  uint16_t event;
  uint32_t value;
};
// The next one of a monitor; 0 when there is none.
SocketEvent next_socket_event(const ZeromqApi& zmq, void* monitor);

}  // namespace terabag
