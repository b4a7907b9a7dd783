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
constexpr uint32_t kAll = FrameSwitch::kAllOthers;

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

// Where the one frame goes that waits.
uint32_t taken_to(FrameSwitch* frames) {
  FrameSwitch::Frame frame{};
  check(frames->take(UINT64_MAX, &frame), "no frame to take");
  return frame.to;
}

void test_learning() {
  current = "learning";
  FrameSwitch frames(4, {});
  accept(&frames, 0, frame_of(2, 1), 0);
  check(taken_to(&frames) == kAll, "an unknown host is looked for at all ports");
  accept(&frames, 3, frame_of(1, 2), 0);
  check(taken_to(&frames) == 0, "a host is where its frame came from");
  accept(&frames, 2, frame_of(255, 2), 0);
  check(taken_to(&frames) == kAll, "a broadcast goes to all");
  accept(&frames, 0, frame_of(2, 1), 0);
  check(taken_to(&frames) == 2, "a host that moved is found where it is now");
  accept(&frames, 2, frame_of(2, 3), 0);
  check(frames.next_due_ns() == UINT64_MAX, "a frame for a host of its own port stays there");
  accept(&frames, 1, frame_of(1, 255), 0);
  taken_to(&frames);
  accept(&frames, 0, frame_of(255, 1), 0);
  check(taken_to(&frames) == kAll, "an address of several is no host");
}

void test_forged_senders() {
  current = "forged senders";
  FrameSwitch frames(2, {});
  accept(&frames, 0, frame_of(255, 1), 0);
  taken_to(&frames);
  for (uint32_t number = 0; number < 2 * FrameSwitch::kMaxLearned; ++number) {
    Bytes bytes = frame_of(255, 4);
    std::memcpy(bytes.data() + 8, &number, sizeof number);
    accept(&frames, 1, bytes, 0);
    taken_to(&frames);
  }
  accept(&frames, 1, frame_of(1, 2), 0);
  check(taken_to(&frames) == 0, "a host that was known stays known");
  accept(&frames, 0, frame_of(2, 1), 0);
  check(taken_to(&frames) == kAll, "when the table is full, frames still arrive");
}

void test_malformed() {
  current = "malformed";
  FrameSwitch frames(2, {});
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
  FrameSwitch frames(2, {});
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
  conditions.seed = below(1000);
  FrameSwitch frames(ports, conditions);
  struct Sent {
    Bytes bytes;
    uint64_t at;
  };
  std::map<uint32_t, std::vector<Sent>> sent;
  std::map<uint32_t, size_t> taken;
  std::map<uint32_t, uint64_t> left_at;
  uint64_t now = 0, last = 0;
  const auto take_due = [&] {
    FrameSwitch::Frame frame{};
    while (frames.next_due_ns() <= now) {
      const uint64_t due = frames.next_due_ns();
      check(due == 0 || !frames.take(due - 1, &frame), "a frame left before its time");
      check(frames.take(due, &frame), "a frame did not leave at its time");
      check(due >= last, "frames leave in the order of their times");
      last = due;
      const Sent& expected = sent[frame.from].at(taken[frame.from]++);
      check(Bytes(frame.bytes, frame.bytes + frame.num_bytes) == expected.bytes, "another frame, or other bytes");
      const uint64_t least = expected.at + conditions.delay_ns - conditions.jitter_ns;
      const uint64_t most = std::max(left_at[frame.from], expected.at + conditions.delay_ns + conditions.jitter_ns);
      check(due >= least && due <= most, "due at " + std::to_string(due) + ", sent at " + std::to_string(expected.at));
      left_at[frame.from] = due;
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
  for (const auto& [port, all] : sent) check(taken[port] == all.size(), "a frame stayed");
}

// Which of many frames come through.
std::vector<bool> survivors(uint32_t loss_ppm, uint64_t seed, int count) {
  PathConditions conditions;
  conditions.loss_ppm = loss_ppm;
  conditions.seed = seed;
  FrameSwitch frames(2, conditions);
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
  for (const uint32_t loss_ppm : {0, 1000, 10'000, 500'000, 1'000'000}) test_loss(loss_ppm);
  constexpr int kCases = 200;
  for (int number = 0; number < kCases; ++number) {
    current = "delay, case " + std::to_string(number) + ", TERABAG_TEST_SEED=" + std::to_string(seed);
    test_delay();
  }
  std::printf("frame switch: %d cases hold\n", kCases);
  return 0;
}
