#include "lab/host_network.h"

#ifdef __linux__
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#endif

namespace terabag {

HostNetwork::HostNetwork(std::vector<HostInterface> hosts, Descriptor stop, const PathConditions& conditions, uint64_t seed)
    : hosts_(std::move(hosts)), stop_(std::move(stop)), frames_(static_cast<uint32_t>(hosts_.size()), conditions, seed) {}

std::vector<int> HostNetwork::namespaces() const {
  std::vector<int> numbers;
  for (const HostInterface& host : hosts_) numbers.push_back(host.net_namespace.number());
  return numbers;
}

NetworkCounters HostNetwork::counters() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {frames_.counters(), refused_};
}

void HostNetwork::set_path(uint32_t from, uint32_t to, const PathConditions& conditions) {
  std::lock_guard<std::mutex> lock(mutex_);
  frames_.set_path(from, to, conditions);
}

#ifdef __linux__
namespace {

// Frames read of one interface before the others have their turn, and before what is due is sent.
constexpr int kBurst = 32;
// The kernel may wake a sleeper later by so much, 50 us without asking: as much as the whole way on a real network.
constexpr unsigned long kTimerSlackNs = 1;
constexpr uint64_t kSecondNs = 1'000'000'000;

uint64_t now_ns() { return static_cast<uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count()); }

// Sleeps until a descriptor is readable or the time has come.
void wait(std::vector<pollfd>* polled, uint64_t until_ns) {
  timespec timeout{};
  if (until_ns != UINT64_MAX) {
    const uint64_t now = now_ns(), left_ns = until_ns > now ? until_ns - now : 0;
    timeout.tv_sec = static_cast<time_t>(left_ns / kSecondNs);
    timeout.tv_nsec = static_cast<long>(left_ns % kSecondNs);
  }
  // Interrupted or not, what is readable is found by the next turn.
  if (ppoll(polled->data(), polled->size(), until_ns == UINT64_MAX ? nullptr : &timeout, nullptr) <= 0)
    for (pollfd& one : *polled) one.revents = 0;
}

}  // namespace

std::unique_ptr<HostNetwork> HostNetwork::open(const std::vector<HostDescription>& descriptions, const PathConditions& conditions,
                                               uint64_t seed, std::string* error) {
  std::vector<HostInterface> hosts;
  for (const HostDescription& description : descriptions) {
    HostInterface host;
    if (!open_host_interface(description, &host, error)) return nullptr;
    hosts.push_back(std::move(host));
  }
  Descriptor stop(eventfd(0, EFD_CLOEXEC));
  if (stop.number() < 0) {
    *error = std::string("no eventfd: ") + std::strerror(errno);
    return nullptr;
  }
  std::unique_ptr<HostNetwork> network(new HostNetwork(std::move(hosts), std::move(stop), conditions, seed));
  network->thread_ = std::thread([self = network.get()] { self->run(); });
  return network;
}

HostNetwork::~HostNetwork() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  // An eventfd takes its first number always.
  if (write(stop_.number(), &one, sizeof one) == sizeof one) thread_.join();
}

void HostNetwork::run() {
  prctl(PR_SET_TIMERSLACK, kTimerSlackNs);
  std::vector<pollfd> polled;
  for (const HostInterface& host : hosts_) polled.push_back({host.frames.number(), POLLIN, 0});
  polled.push_back({stop_.number(), POLLIN, 0});
  for (uint64_t next_due_ns = UINT64_MAX;;) {
    wait(&polled, next_due_ns);
    if (polled.back().revents != 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    for (uint32_t port = 0; port < hosts_.size(); ++port) {
      if (polled[port].revents != 0) read_frames(port);
      // An interface that somebody removed would be readable for ever.
      if ((polled[port].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) polled[port].fd = -1;
    }
    deliver();
    next_due_ns = frames_.next_due_ns();
  }
}

void HostNetwork::read_frames(uint32_t port) {
  unsigned char frame[FrameSwitch::kMaxFrameBytes + 1];  // One more, so that a frame that is too long shows.
  const uint64_t now = now_ns();
  for (int count = 0; count < kBurst; ++count) {
    const ssize_t got = read(hosts_[port].frames.number(), frame, sizeof frame);
    if (got <= 0) return;
    frames_.accept(port, frame, static_cast<size_t>(got), now);
  }
}

void HostNetwork::deliver() {
  FrameSwitch::Frame frame;
  const uint64_t now = now_ns();
  while (frames_.take(now, &frame)) {
    if (write(hosts_[frame.to].frames.number(), frame.bytes, frame.num_bytes) != static_cast<ssize_t>(frame.num_bytes)) ++refused_;
  }
}
#else
std::unique_ptr<HostNetwork> HostNetwork::open(const std::vector<HostDescription>& hosts, const PathConditions&, uint64_t,
                                               std::string* error) {
  HostInterface host;
  if (!hosts.empty()) open_host_interface(hosts[0], &host, error);
  return nullptr;
}
HostNetwork::~HostNetwork() = default;
#endif

}  // namespace terabag
