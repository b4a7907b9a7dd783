#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "wire/connection.h"
#include "wire/endpoint_address.h"
#include "wire/wake_up.h"

namespace terabag {

// What the peers of a socket may take, each or together. Times in ms.
struct PeerLimits {
  uint64_t connections;
  uint64_t silent_connections;   // those that have not sent a message yet
  int64_t first_message_ms;      // after which a silent one is cut; 0: never
  int64_t silent_bytes;          // unread, of a silent one
  int64_t unread_bytes;          // of one
  int64_t unread_process_bytes;  // of all sockets of this process
  uint64_t unsent_bytes;         // of one; see SendAccount
  uint64_t unsent_process_bytes;
  int64_t stalled_ms;  // after which one is cut that takes nothing of what waits for it, and for which messages were refused
};

struct PeerCounts {
  uint64_t connections, strangers, cut;
};

// The connections of one socket, and what they may do. Functions are for any thread.
class SocketWatch {
 public:
  // domain: of a server, by which libzmq's questions who is let in name it.
  // accepts: of a listener that wants to be told of each connection, else nullptr.
  SocketWatch(const PeerLimits& limits, bool encrypted, std::string domain, std::shared_ptr<const WakeUp> accepts);
  const PeerLimits& limits() const { return limits_; }
  const std::string& domain() const { return domain_; }

  // Of a server: its connections are those that are accepted where it is bound, which bind does and returns.
  std::string bind(const std::function<std::string()>& bind);
  // Of a client: its connections are those to there.
  void connects(const std::string& endpoint);

  // libzmq has accepted or made one. Its number may be another's by now, of this process or of its listener.
  std::shared_ptr<Connection> opened(int descriptor);
  // Why somebody cannot be let in, whose connection is about to end.
  void refused(const std::string& why);
  void cut(const Connection& connection, const std::string& why);

  // The one of a message, from which its peer is known.
  std::shared_ptr<Connection> of_message(int descriptor);
  // With its first message: who sent it. False when it may not.
  bool introduce(Connection* connection, std::shared_ptr<SendAccount> account, const std::string& key);
  // Of the socket's thread: all that had arrived whole was received.
  void drained();

  // Of a server with keys: who is let in. Connections of others are cut.
  void allow(std::set<std::string> keys);
  // Without keys everybody is, with an empty one.
  bool lets_in(const std::string& key) const;

  PeerCounts counts() const;
  // Why somebody was refused or cut since the last call; empty when nobody was.
  std::string take_reason();

  // Of the guard, again and again: forgets who is gone and cuts who takes too much. Adds what is unread.
  struct Unread {
    SocketWatch* watch;
    std::shared_ptr<Connection> connection;
    int64_t bytes;
  };
  void sweep(std::vector<Unread>* unread);

 private:
  struct Watched {
    std::shared_ptr<Connection> connection;
    int64_t opened_ms;
    // Of those heard of, in their order: several are within a millisecond.
    uint64_t number;
    bool cut = false;
    // libzmq has told of it.
    bool is_told = false;
    // Those received at the latest sweep that looked.
    uint64_t messages = 0;
    // A Unix socket: sweeps in a row that found input and no message.
    int busy_sweeps = 0;
    // Since when much is unread, and what of it and of the process's memory there was then.
    int64_t much_since_ms = -1;
    int64_t much_bytes = 0, much_memory = 0;
    // Since when it has taken nothing.
    int64_t stalled_since_ms = -1;
    uint64_t released = 0;
  };

  bool may_enter(const std::string& key) const;
  Watched* find(int descriptor);
  Watched* watch(int descriptor);
  bool is_ours(int descriptor) const;
  void make_room();
  void note_gone(const Watched& watched);
  void add_stranger();
  void cut_watched(Watched* watched, const std::string& why);
  std::string fault_of(Watched* watched, std::optional<int64_t> unread, int64_t now_ms) const;
  bool multiplies(Watched* watched, int64_t unread, int64_t now_ms) const;
  bool floods(Watched* watched) const;
  bool stalls(Watched* watched, int64_t now_ms) const;

  const PeerLimits limits_;
  const bool encrypted_;
  const std::string domain_;
  const std::shared_ptr<const WakeUp> accepts_;
  std::atomic<int64_t> drained_ms_{0};
  mutable std::mutex mutex_;
  std::set<EndpointAddress> bound_, reached_;
  std::map<int, Watched> connections_;  // by descriptor
  std::set<std::string> allowed_;
  uint64_t numbered_ = 0, strangers_ = 0, cut_ = 0;
  std::string reason_;
};

}  // namespace terabag
