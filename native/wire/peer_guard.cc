#include "wire/peer_guard.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

namespace terabag {
namespace {

enum Type { kPair = 0, kReply = 4 };
enum Option { kLinger = 17 };
enum Flag { kDontWait = 1, kSendMore = 2 };
constexpr short kPollIn = 1;
constexpr size_t kKeyBytes = 32;
// Between two looks at the connections: a gigabyte a second, faster than libzmq receives, is 100 MB meanwhile.
constexpr long kSweepMs = 100;
// After which memory that nobody needed is given back.
constexpr int kSweepsPerRelease = 10;

std::string z85(const std::string& bytes) {
  static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
  std::string text;
  for (size_t at = 0; at + 4 <= bytes.size(); at += 4) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
    for (uint32_t divisor = 85 * 85 * 85 * 85; divisor > 0; divisor /= 85) text += digits[value / divisor % 85];
  }
  return text;
}

}  // namespace

std::vector<std::string> receive_frames(const ZeromqApi& zmq, void* socket) {
  std::vector<std::string> frames;
  for (bool more = true; more;) {
    ZeromqMessage frame;
    zmq.msg_init(&frame);
    if (zmq.msg_recv(&frame, socket, kDontWait) < 0) return {};
    frames.emplace_back(static_cast<const char*>(zmq.msg_data(&frame)), zmq.msg_size(&frame));
    more = zmq.msg_more(&frame) != 0;
    zmq.msg_close(&frame);
  }
  return frames;
}

// Frames: the event (uint16) and its value (uint32), and the endpoint.
SocketEvent next_socket_event(const ZeromqApi& zmq, void* monitor) {
  SocketEvent event{0, 0};
  const std::vector<std::string> frames = receive_frames(zmq, monitor);
  if (frames.empty() || frames[0].size() < sizeof event.event + sizeof event.value) return event;
  std::memcpy(&event.event, frames[0].data(), sizeof event.event);
  std::memcpy(&event.value, frames[0].data() + sizeof event.event, sizeof event.value);
  return event;
}

std::unique_ptr<PeerGuard> PeerGuard::start(const ZeromqApi& zmq, void* context) {
  void* zap = zmq.socket(context, kReply);
  if (zap == nullptr) return nullptr;
  const int none = 0;
  zmq.setsockopt(zap, kLinger, &none, sizeof none);
  std::unique_ptr<PeerGuard> guard(new PeerGuard(zmq, context, zap));
  if (guard->wake_up_.descriptor() < 0 || zmq.bind(zap, "inproc://zeromq.zap.01") != 0) {
    zmq.close(zap);
    return nullptr;
  }
  guard->thread_ = std::thread([of = guard.get()] { of->run(); });
  return guard;
}

PeerGuard::~PeerGuard() {
  ending_ = true;
  wake_up_.signal();
  if (thread_.joinable()) thread_.join();
}

void PeerGuard::add(std::shared_ptr<SocketWatch> watch, void* monitor) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    added_.push_back({.watch = std::move(watch), .monitor = monitor});
  }
  wake_up_.signal();
}

void PeerGuard::remove(const std::shared_ptr<SocketWatch>& watch) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    removed_.push_back(watch);
  }
  wake_up_.signal();
}

void PeerGuard::run() {
  using std::chrono::steady_clock;
  auto swept = steady_clock::now();
  int sweeps = 0;
  while (!ending_) {
    take_changes();
    wait(guarded_.empty() ? -1 : kSweepMs);
    if (steady_clock::now() - swept < std::chrono::milliseconds(kSweepMs)) continue;
    swept = steady_clock::now();
    sweep();
    if (++sweeps % kSweepsPerRelease == 0) release_idle_memory(cut_lately());
  }
  take_changes();
  for (const Guarded& guarded : guarded_)
    if (guarded.monitor != nullptr) zmq_.close(guarded.monitor);
  zmq_.close(zap_);
  // What was kept for sockets that are closed now, and what was needed until then.
  for (int turn = 0; turn < 2; ++turn) release_idle_memory(false);
}

void PeerGuard::take_changes() {
  std::vector<Guarded> added;
  std::vector<std::shared_ptr<SocketWatch>> removed;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    added.swap(added_);
    removed.swap(removed_);
  }
  guarded_.insert(guarded_.end(), added.begin(), added.end());
  for (const auto& watch : removed) {
    const auto found = std::find_if(guarded_.begin(), guarded_.end(), [&](const Guarded& each) { return each.watch == watch; });
    if (found == guarded_.end()) continue;
    if (found->monitor != nullptr) zmq_.close(found->monitor);
    guarded_.erase(found);
  }
}

void PeerGuard::wait(long ms) {
  std::vector<ZeromqPollItem> items = {{nullptr, wake_up_.descriptor(), kPollIn, 0}, {zap_, 0, kPollIn, 0}};
  for (const Guarded& guarded : guarded_)
    if (guarded.monitor != nullptr) items.push_back({guarded.monitor, 0, kPollIn, 0});
  if (zmq_.poll(items.data(), static_cast<int>(items.size()), ms) <= 0) return;
  if (items[0].happened != 0) wake_up_.take();
  if (items[1].happened != 0) answer_zap();
  for (Guarded& guarded : guarded_)
    if (guarded.monitor != nullptr) take_events(&guarded);
}

// Frames: version, request, domain, address, routing id, mechanism, and the client's public key where it has one.
void PeerGuard::answer_zap() {
  for (;;) {
    const std::vector<std::string> frames = receive_frames(zmq_, zap_);
    if (frames.empty()) return;
    // A socket may have come with its first client.
    take_changes();
    const std::string id = frames.size() > 1 ? frames[1] : std::string();
    const bool has_key = frames.size() == 7 && frames[5] == "CURVE" && frames[6].size() == kKeyBytes;
    const bool sound = has_key || (frames.size() == 6 && frames[5] == "NULL");
    const auto of_domain = [&](const Guarded& each) { return sound && frames[0] == "1.0" && each.watch->domain() == frames[2]; };
    const auto guarded = std::find_if(guarded_.begin(), guarded_.end(), of_domain);
    const std::string key = has_key ? z85(frames[6]) : std::string();
    const bool allowed = guarded != guarded_.end() && guarded->watch->lets_in(key);
    if (!allowed && guarded != guarded_.end()) guarded->watch->refused("key is not allowed: " + key + " from " + frames[3]);
    reply(id, allowed ? "200" : "400", key);
  }
}

// Frames: version, request, status, text, user id, metadata.
void PeerGuard::reply(const std::string& id, const char* status, const std::string& user) {
  const std::string frames[] = {"1.0", id, status, "", user, ""};
  for (size_t at = 0; at < std::size(frames); ++at) {
    ZeromqMessage frame;
    if (zmq_.msg_init_size(&frame, frames[at].size()) != 0) return;
    std::memcpy(zmq_.msg_data(&frame), frames[at].data(), frames[at].size());
    if (zmq_.msg_send(&frame, zap_, at + 1 < std::size(frames) ? kSendMore : 0) < 0) zmq_.msg_close(&frame);
  }
}

void PeerGuard::take_events(Guarded* guarded) {
  for (;;) {
    const SocketEvent event = next_socket_event(zmq_, guarded->monitor);
    if (event.event == 0) return;
    if (event.event == kAccepted) guarded->watch->opened(static_cast<int>(event.value));
  }
}

// What they sent goes some time after them: in this period or in the next.
bool PeerGuard::cut_lately() {
  uint64_t cut = 0;
  for (const Guarded& guarded : guarded_) cut += guarded.watch->counts().cut;
  trims_ = cut != last_cut_ ? 2 : trims_ - (trims_ > 0);
  last_cut_ = cut;
  return trims_ > 0;
}

void PeerGuard::sweep() {
  std::vector<SocketWatch::Unread> unread;
  int64_t most = INT64_MAX, sum = 0;
  for (const Guarded& guarded : guarded_) {
    guarded.watch->sweep(&unread);
    most = std::min(most, guarded.watch->limits().unread_process_bytes);
  }
  for (const auto& each : unread) sum += each.bytes;
  if (sum <= most) return;
  std::sort(unread.begin(), unread.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  for (const auto& each : unread) {
    if (sum <= most) return;
    each.watch->cut(*each.connection, "bytes that are no message, of all connections together: " + std::to_string(sum));
    sum -= each.bytes;
  }
}

}  // namespace terabag
