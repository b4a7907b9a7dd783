// The switch between emulated hosts against what a plain list of frames says. No Node, no privilege, no interface. TERABAG_TEST_SEED
// repeats a run. Frames lie in buffers of just their length, so that the address sanitizer sees a byte read too many.
#include "lab/frame_switch.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace terabag {
namespace {

std::mt19937_64 random_bits;
uint64_t below(uint64_t limit) { return random_bits() % limit; }

std::string current;  // the case in work
void check(bool sound, const std::string& what) {
  if (sound) return;
  std::fprintf(stderr, "%s: %s\n", current.c_str(), what.c_str());
  std::exit(1);
}

using Bytes = std::vector<unsigned char>;

// The address of a host; host 255 stands for all.
void put_address(unsigned char* at, uint32_t host) { std::memset(at, host == 255 ? 0xff : static_cast<int>(host * 2), 6); }

Bytes frame_of(uint32_t to, uint32_t from, size_t num_bytes = 60) {
  Bytes bytes(num_bytes);
  for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(below(256));
  put_address(bytes.data(), to);
  put_address(bytes.data() + 6, from);
  return bytes;
}

void accept(FrameSwitch* frames, uint32_t port, const Bytes& bytes, uint64_t now) { frames->accept(port, bytes.data(), bytes.size(), now); }

// Where the frames go that wait.
std::vector<uint32_t> taken_to(FrameSwitch* frames) {
  std::vector<uint32_t> ports;
  for (FrameSwitch::Frame frame{}; frames->take(UINT64_MAX, &frame);) ports.push_back(frame.to);
  return ports;
}

using Ports = std::vector<uint32_t>;

void test_learning() {
  current = "learning";
  FrameSwitch frames(4, {}, 1);
  accept(&frames, 0, frame_of(2, 1), 0);
  check(taken_to(&frames) == Ports{1, 2, 3}, "an unknown host is looked for at all ports");
  accept(&frames, 3, frame_of(1, 2), 0);
  check(taken_to(&frames) == Ports{0}, "a host is where its frame came from");
  accept(&frames, 2, frame_of(255, 2), 0);
  check(taken_to(&frames) == Ports{0, 1, 3}, "a broadcast goes to all");
  accept(&frames, 0, frame_of(2, 1), 0);
  check(taken_to(&frames) == Ports{2}, "a host that moved is found where it is now");
  accept(&frames, 2, frame_of(2, 3), 0);
  check(frames.next_due_ns() == UINT64_MAX, "a frame for a host of its own port stays there");
  accept(&frames, 1, frame_of(1, 255), 0);
  taken_to(&frames);
  accept(&frames, 0, frame_of(255, 1), 0);
  check(taken_to(&frames) == Ports{1, 2, 3}, "an address of several is no host");
}

void test_forged_senders() {
  current = "forged senders";
  FrameSwitch frames(2, {}, 1);
  accept(&frames, 0, frame_of(255, 1), 0);
  taken_to(&frames);
  for (uint32_t number = 0; number < 2 * FrameSwitch::kMaxLearned; ++number) {
    Bytes bytes = frame_of(255, 4);
    std::memcpy(bytes.data() + 8, &number, sizeof number);
    accept(&frames, 1, bytes, 0);
    taken_to(&frames);
  }
  accept(&frames, 1, frame_of(1, 2), 0);
  check(taken_to(&frames) == Ports{0}, "a host that was known stays known");
  accept(&frames, 0, frame_of(2, 1), 0);
  check(taken_to(&frames) == Ports{1}, "when the table is full, frames still arrive");
}

void test_malformed() {
  current = "malformed";
  FrameSwitch frames(2, {}, 1);
  for (const size_t num_bytes : {0, 1, 13, 1519, 9000}) {
    const Bytes bytes(num_bytes);
    accept(&frames, 0, bytes, 0);
  }
  const Bytes whole = frame_of(2, 1, 14), longest = frame_of(2, 1, 1518);
  accept(&frames, 2, whole, 0);
  check(frames.counters().malformed == 6 && frames.next_due_ns() == UINT64_MAX, "they are dropped and counted");
  accept(&frames, 0, whole, 0);
  accept(&frames, 0, longest, 0);
  FrameSwitch::Frame frame{};
  for (const Bytes& bytes : {whole, longest}) {
    check(frames.take(0, &frame) && Bytes(frame.bytes, frame.bytes + frame.num_bytes) == bytes, "the shortest and the longest pass");
  }
}

void test_overflow() {
  current = "overflow";
  FrameSwitch frames(2, {}, 1);
  const Bytes bytes = frame_of(2, 1);
  for (size_t count = 0; count < FrameSwitch::kMaxWaiting + 5; ++count) accept(&frames, 0, bytes, 0);
  check(frames.counters().overflowed == 5, "what has no room is dropped and counted");
  taken_to(&frames);
  accept(&frames, 0, bytes, 0);
  check(frames.counters().overflowed == 5, "a frame taken makes room");
}

// Frames of several hosts at random times: each leaves with its bytes, in the order of its port, when it has to and not before.
void test_delay() {
  const uint32_t ports = static_cast<uint32_t>(2 + below(5));
  PathConditions conditions;
  conditions.delay_ns = below(2) == 0 ? 0 : below(1000);
  conditions.jitter_ns = below(2) == 0 ? 0 : below(conditions.delay_ns + 1);
  FrameSwitch frames(ports, conditions, below(1000));
  struct Sent {
    Bytes bytes;
    uint64_t at;
  };
  // A frame for a host that nobody knows goes to every other port; each way has an order of its own.
  using Way = std::pair<uint32_t, uint32_t>;
  std::map<uint32_t, std::vector<Sent>> sent;
  std::map<Way, size_t> taken;
  std::map<Way, uint64_t> left_at;
  uint64_t now = 0, last = 0;
  const auto take_due = [&] {
    FrameSwitch::Frame frame{};
    while (frames.next_due_ns() <= now) {
      const uint64_t due = frames.next_due_ns();
      check(due == 0 || !frames.take(due - 1, &frame), "a frame left before its time");
      check(frames.take(due, &frame), "a frame did not leave at its time");
      check(due >= last, "frames leave in the order of their times");
      last = due;
      const Way way{frame.from, frame.to};
      const Sent& expected = sent[frame.from].at(taken[way]++);
      check(Bytes(frame.bytes, frame.bytes + frame.num_bytes) == expected.bytes, "another frame, or other bytes");
      const uint64_t least = expected.at + conditions.delay_ns - conditions.jitter_ns;
      const uint64_t most = std::max(left_at[way], expected.at + conditions.delay_ns + conditions.jitter_ns);
      check(due >= least && due <= most, "due at " + std::to_string(due) + ", sent at " + std::to_string(expected.at));
      left_at[way] = due;
    }
  };
  for (int step = 0; step < 300; ++step) {
    now += below(200);
    take_due();
    for (uint64_t burst = below(4); burst > 0; --burst) {
      const uint32_t port = static_cast<uint32_t>(below(ports));
      sent[port].push_back({frame_of(100, port + 1, 14 + below(200)), now});
      accept(&frames, port, sent[port].back().bytes, now);
    }
  }
  now = UINT64_MAX - 1;
  take_due();
  for (const auto& [port, all] : sent) {
    for (uint32_t to = 0; to < ports; ++to) check(to == port || taken[Way(port, to)] == all.size(), "a frame stayed");
  }
}

// Conditions of one way, changed while frames are on it and on others.
void test_paths() {
  current = "paths";
  FrameSwitch frames(3, {100, 0, 0}, 1);
  FrameSwitch::Frame frame{};
  const auto come = [&](uint64_t now) {
    std::vector<std::pair<uint32_t, uint32_t>> ways;
    while (frames.take(now, &frame)) ways.emplace_back(frame.from, frame.to);
    return ways;
  };
  for (uint32_t port = 0; port < 3; ++port) accept(&frames, port, frame_of(255, port + 1), 0);
  check(come(100).size() == 6, "a frame to all comes to all, after the delay of each way");
  accept(&frames, 0, frame_of(2, 1), 100);
  frames.set_path(0, 1, {0, 0, 1'000'000});
  for (uint32_t port = 0; port < 3; ++port) accept(&frames, port, frame_of(255, port + 1), 150);
  check(come(200).size() == 1, "what was on its way arrives when the way is cut");
  check(come(250) == decltype(come(0)){{0, 2}, {1, 0}, {1, 2}, {2, 0}, {2, 1}}, "one way is cut, and no other: not the way back");
  check(frames.counters().lost == 1, "and what it lost is counted");
  frames.set_path(0, 1, {500, 0, 0});
  accept(&frames, 0, frame_of(2, 1), 300);
  frames.set_path(0, 1, {10, 0, 0});
  accept(&frames, 0, frame_of(2, 1), 300);
  accept(&frames, 1, frame_of(1, 2), 300);
  check(come(400) == decltype(come(0)){{1, 0}}, "another way keeps its delay");
  check(come(799).empty() && come(800).size() == 2, "a shorter delay overtakes nothing that is on its way");
  accept(&frames, 0, frame_of(2, 1), 900);
  check(come(910).size() == 1, "and counts from then on");
  frames.set_path(3, 0, {0, 0, 0});
  frames.set_path(0, 3, {0, 0, 0});
}

// Which of many frames come through.
std::vector<bool> survivors(uint32_t loss_ppm, uint64_t seed, int count) {
  PathConditions conditions;
  conditions.loss_ppm = loss_ppm;
  FrameSwitch frames(2, conditions, seed);
  const Bytes bytes = frame_of(2, 1);
  std::vector<bool> came;
  FrameSwitch::Frame frame{};
  for (int number = 0; number < count; ++number) {
    accept(&frames, 0, bytes, 0);
    came.push_back(frames.take(0, &frame));
  }
  const SwitchCounters& counters = frames.counters();
  check(counters.accepted == static_cast<uint64_t>(count) && counters.lost + counters.delivered == counters.accepted, "counters");
  return came;
}

void test_loss(uint32_t loss_ppm) {
  constexpr int kFrames = 200'000;
  current = "loss of " + std::to_string(loss_ppm) + " in a million";
  const std::vector<bool> came = survivors(loss_ppm, 7, kFrames);
  int lost = 0, lost_twice = 0;
  for (size_t at = 0; at < came.size(); ++at) {
    lost += came[at] ? 0 : 1;
    lost_twice += at > 0 && !came[at] && !came[at - 1] ? 1 : 0;
  }
  const double rate = loss_ppm / 1e6, sigma = std::sqrt(kFrames * rate * (1 - rate));
  check(std::abs(lost - kFrames * rate) <= 5 * sigma, "lost " + std::to_string(lost) + " of " + std::to_string(kFrames));
  const double pairs = kFrames * rate * rate;
  check(std::abs(lost_twice - pairs) <= 6 * std::sqrt(pairs) + 1,
        "losses are not independent: " + std::to_string(lost_twice) + " in a row");
  check(came == survivors(loss_ppm, 7, kFrames), "the same seed loses the same frames");
  check(rate == 0 || rate == 1 || came != survivors(loss_ppm, 8, kFrames), "another seed loses other frames");
}

}  // namespace
}  // namespace terabag

int main() {
  using namespace terabag;
  const char* given = std::getenv("TERABAG_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  random_bits.seed(seed);
  test_learning();
  test_forged_senders();
  test_malformed();
  test_overflow();
  test_paths();
  for (const uint32_t loss_ppm : {0, 1000, 10'000, 500'000, 1'000'000}) test_loss(loss_ppm);
  constexpr int kCases = 200;
  for (int number = 0; number < kCases; ++number) {
    current = "delay, case " + std::to_string(number) + ", TERABAG_TEST_SEED=" + std::to_string(seed);
    test_delay();
  }
  std::printf("frame switch: %d cases hold\n", kCases);
  return 0;
}
