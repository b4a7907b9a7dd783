#include "wire/socket_watch.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

namespace terabag {
namespace {

constexpr int64_t kMiB = 1024 * 1024;
// libzmq takes 64 bytes of memory for a frame of two: unread bytes are memory in that proportion at worst, in which a stranger sends no
// message, and nobody else does. From here on the process's memory is watched, too.
constexpr int64_t kMuch = kMiB;
constexpr int64_t kMemorySlack = 256 * kMiB;
// Sweeps in a row, and how long they take.
constexpr int kBusySweeps = 10;
constexpr int64_t kSweepsMs = 1000;

int64_t now_ms() {
  using std::chrono::steady_clock;
  return std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now().time_since_epoch()).count();
}

// Anonymous memory of this process, also where it was paged out, without what waits to be sent. 0 where the system does not tell.
int64_t memory_bytes() {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  int64_t kib = 0;
  for (char line[256]; std::fgets(line, sizeof line, file) != nullptr;) {
    long long value = 0;
    if (std::sscanf(line, "RssAnon: %lld kB", &value) == 1 || std::sscanf(line, "VmSwap: %lld kB", &value) == 1) kib += value;
  }
  std::fclose(file);
  return kib * 1024 - static_cast<int64_t>(bytes_held());
}

}  // namespace

SocketWatch::SocketWatch(const PeerLimits& limits, bool encrypted, std::string domain, std::shared_ptr<const WakeUp> accepts)
    : limits_(limits), encrypted_(encrypted), domain_(std::move(domain)), accepts_(std::move(accepts)) {}

// An earlier connection with that number is gone.
SocketWatch::Watched* SocketWatch::find(int descriptor) {
  const auto found = connections_.find(descriptor);
  return found != connections_.end() && found->second.connection->is_there() ? &found->second : nullptr;
}

std::string SocketWatch::bind(const std::function<std::string()>& bind) {
  // Nobody is accepted before it is known where.
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string endpoint = bind();
  bound_.emplace(endpoint);
  return endpoint;
}

void SocketWatch::connects(const std::string& endpoint) {
  const std::lock_guard<std::mutex> lock(mutex_);
  reached_.emplace(endpoint);
}

bool SocketWatch::is_ours(int descriptor) const {
  const auto accepted = [=](const EndpointAddress& at) { return at.accepted(descriptor); };
  const auto connected = [=](const EndpointAddress& to) { return to.connected(descriptor); };
  return std::any_of(bound_.begin(), bound_.end(), accepted) || std::any_of(reached_.begin(), reached_.end(), connected);
}

// Of each connection it is heard once, maybe when it has ended and its number is another's.
std::shared_ptr<Connection> SocketWatch::opened(int descriptor) {
  std::shared_ptr<Connection> connection;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    Watched* watched = watch(descriptor);
    if (watched != nullptr) connection = watched->connection;
    const auto known = connections_.find(descriptor);
    // Not of the one that is known, of which it was heard before: of one that has ended without a message, by which it would be known.
    if (known == connections_.end() || known->second.is_told)
      add_stranger();
    else
      known->second.is_told = true;
  }
  if (accepts_ != nullptr) accepts_->signal();
  return connection;
}

// Its first message may be received before the guard hears of it.
std::shared_ptr<Connection> SocketWatch::of_message(int descriptor) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Watched* watched = watch(descriptor);
  return watched == nullptr ? nullptr : watched->connection;
}

// nullptr when it has ended.
SocketWatch::Watched* SocketWatch::watch(int descriptor) {
  if (Watched* watched = find(descriptor)) return watched;
  std::shared_ptr<Connection> connection = Connection::of(descriptor, encrypted_);
  if (connection == nullptr || !is_ours(descriptor) || !connection->is_there()) return nullptr;
  const auto before = connections_.find(descriptor);
  if (before != connections_.end()) note_gone(before->second);
  connections_[descriptor] = {.connection = std::move(connection), .opened_ms = now_ms(), .number = numbered_++};
  make_room();
  return &connections_[descriptor];
}

// Those who have sent nothing go first, the oldest of them: somebody who greets at once is not displaced by many who do not. Among others
// the latest goes.
void SocketWatch::make_room() {
  uint64_t all = 0, silent = 0;
  Watched *oldest = nullptr, *latest = nullptr;
  for (auto& [_, watched] : connections_) {
    if (watched.cut) continue;
    ++all;
    if (latest == nullptr || watched.number > latest->number) latest = &watched;
    if (watched.connection->messages() > 0) continue;
    ++silent;
    if (oldest == nullptr || watched.number < oldest->number) oldest = &watched;
  }
  if (all > limits_.connections)
    cut_watched(oldest != nullptr ? oldest : latest, "too many connections");
  else if (silent > limits_.silent_connections)
    cut_watched(oldest, "too many connections without a message");
}

// It is counted when its connection ends.
void SocketWatch::refused(const std::string& why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  reason_ = why;
}

// Peers greet at once, unless they cannot.
void SocketWatch::note_gone(const Watched& watched) {
  if (!watched.cut && watched.connection->messages() == 0) add_stranger();
}

void SocketWatch::add_stranger() {
  if (limits_.first_message_ms == 0) return;
  ++strangers_;
  if (reason_.empty()) reason_ = "connection ended before a message: it does not speak the protocol, or has other keys or none";
}

void SocketWatch::cut(const Connection& connection, const std::string& why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = connections_.find(connection.descriptor());
  if (found != connections_.end() && found->second.connection.get() == &connection) cut_watched(&found->second, why);
}

void SocketWatch::cut_watched(Watched* watched, const std::string& why) {
  if (watched->cut) return;
  watched->cut = true;
  ++cut_;
  reason_ = why;
  watched->connection->shut();
}

bool SocketWatch::introduce(Connection* connection, std::shared_ptr<SendAccount> account, const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  connection->account = std::move(account);
  connection->key = key;
  return may_enter(key);
}

void SocketWatch::drained() { drained_ms_.store(now_ms(), std::memory_order_relaxed); }

void SocketWatch::allow(std::set<std::string> keys) {
  const std::lock_guard<std::mutex> lock(mutex_);
  allowed_ = std::move(keys);
  for (auto& [_, watched] : connections_) {
    const std::string& key = watched.connection->key;
    if (!key.empty() && !allowed_.contains(key)) cut_watched(&watched, "key is not allowed any more: " + key);
  }
}

bool SocketWatch::lets_in(const std::string& key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return may_enter(key);
}

bool SocketWatch::may_enter(const std::string& key) const { return !encrypted_ || allowed_.contains(key); }

PeerCounts SocketWatch::counts() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto there = std::count_if(connections_.begin(), connections_.end(), [](const auto& each) { return !each.second.cut; });
  return {static_cast<uint64_t>(there), strangers_, cut_};
}

std::string SocketWatch::take_reason() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(reason_, {});
}

void SocketWatch::sweep(std::vector<Unread>* unread) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(connections_, [this](const auto& each) {
    const bool there = each.second.connection->is_there();
    if (!there) note_gone(each.second);
    return !there;
  });
  const int64_t now = now_ms();
  for (auto& [_, watched] : connections_) {
    if (watched.cut) continue;
    const std::optional<int64_t> bytes = watched.connection->unread_bytes();
    const std::string fault = fault_of(&watched, bytes, now);
    if (!fault.empty())
      cut_watched(&watched, fault);
    else if (bytes)
      unread->push_back({this, watched.connection, *bytes});
  }
}

std::string SocketWatch::fault_of(Watched* watched, std::optional<int64_t> unread, int64_t now) const {
  const bool silent = watched->connection->messages() == 0;
  // An event loop that stands still has read nobody's first message.
  const int64_t heard_ms = std::min(now, drained_ms_.load(std::memory_order_relaxed)) - watched->opened_ms;
  if (silent && limits_.first_message_ms > 0 && heard_ms > limits_.first_message_ms)
    return "no message within " + std::to_string(limits_.first_message_ms) + " ms";
  if (silent && unread > limits_.silent_bytes) return "bytes before a first message: " + std::to_string(*unread);
  if (unread > limits_.unread_bytes) return "bytes that are no message: " + std::to_string(*unread);
  if (unread ? multiplies(watched, *unread, now) : floods(watched)) return "bytes that are no message, and take memory";
  if (stalls(watched, now)) return "answers are not read: " + std::to_string(watched->connection->account->held) + " bytes wait";
  return {};
}

// Frames of a message that never ends: what is unread stays so though all that was whole is received, and takes many times its bytes.
bool SocketWatch::multiplies(Watched* watched, int64_t unread, int64_t now) const {
  const uint64_t messages = watched->connection->messages();
  if (unread < kMuch) {
    watched->much_since_ms = -1;
    return false;
  }
  // Nothing comes after a message that does not end.
  if (watched->much_since_ms < 0 || messages != watched->messages) {
    watched->messages = messages;
    watched->much_since_ms = now;
    watched->much_bytes = unread;
    watched->much_memory = memory_bytes();
    return false;
  }
  if (drained_ms_.load(std::memory_order_relaxed) <= watched->much_since_ms) return false;
  const int64_t more = std::max<int64_t>(0, unread - watched->much_bytes);
  return memory_bytes() - watched->much_memory > kMemorySlack + more + more / 2;
}

// The system does not count what comes through a Unix socket: input that never ends without a message is a flood.
bool SocketWatch::floods(Watched* watched) const {
  const uint64_t messages = watched->connection->messages();
  const bool busy = messages == watched->messages && watched->connection->input_waits();
  watched->messages = messages;
  watched->busy_sweeps = busy ? watched->busy_sweeps + 1 : 0;
  return watched->busy_sweeps > kBusySweeps && now_ms() - drained_ms_.load(std::memory_order_relaxed) < kSweepsMs;
}

bool SocketWatch::stalls(Watched* watched, int64_t now) const {
  const SendAccount* account = watched->connection->account.get();
  if (account == nullptr || !account->starved.load(std::memory_order_relaxed)) {
    watched->stalled_since_ms = -1;
    return false;
  }
  const uint64_t released = account->released.load(std::memory_order_relaxed);
  if (watched->stalled_since_ms < 0 || released != watched->released) {
    watched->stalled_since_ms = now;
    watched->released = released;
  }
  return now - watched->stalled_since_ms > limits_.stalled_ms;
}

}  // namespace terabag
