#pragma once
#include <cstdint>
#include <memory>
#include <queue>
#include <random>
#include <unordered_map>
#include <vector>

namespace terabag {

// What the way from one host to another does to an Ethernet frame.
struct PathConditions {
  uint64_t delay_ns = 0;   // One way.
  uint64_t jitter_ns = 0;  // A frame takes delay_ns give or take up to so much, evenly spread; at most delay_ns.
  uint32_t loss_ppm = 0;   // Of a million frames, so many are dropped, independently of each other; all of them: the way is cut.
};

// Frames, since the switch was made; one to all hosts counts once for each. accepted = delivered + lost + overflowed + malformed + those
// that wait or stay on their port.
struct SwitchCounters {
  uint64_t accepted = 0;
  uint64_t delivered = 0;   // Taken when due.
  uint64_t lost = 0;        // Dropped because loss_ppm asks for it.
  uint64_t overflowed = 0;  // Dropped because kMaxWaiting frames waited.
  uint64_t malformed = 0;   // Shorter than an Ethernet header, longer than a frame, or from a port that is not there.
};

// A learning Ethernet switch that delays and drops. It reads no clock and no file: frames are given to it and taken from it, with times in
// ns of any monotonic clock. Frames from one port to another leave in the order in which they came. Not for several threads.
class FrameSwitch {
 public:
  static constexpr size_t kMinFrameBytes = 14;
  static constexpr size_t kMaxFrameBytes = 1518;  // 1500 bytes of payload, the header and a VLAN tag.
  static constexpr size_t kMaxWaiting = 32768;
  static constexpr size_t kMaxLearned = 4096;

  struct Frame {
    uint32_t from, to;  // Ports.
    const unsigned char* bytes;
    size_t num_bytes;
  };

  // Every way has the same conditions at first. The same seed, and the same frames in the same order, meet the same losses and the same
  // jitter.
  FrameSwitch(uint32_t num_ports, const PathConditions& conditions, uint64_t seed);

  // Conditions from now on of the way from one port to another, not of the way back. What is on its way stays so, and is not overtaken.
  // Ports that are not there are ignored.
  void set_path(uint32_t from, uint32_t to, const PathConditions& conditions);
  // Copies a frame that came in at a port. Of what it says, only both addresses are read, and nothing is trusted.
  void accept(uint32_t port, const unsigned char* bytes, size_t num_bytes, uint64_t now_ns);
  // When the next frame has to leave; UINT64_MAX while none waits.
  uint64_t next_due_ns() const { return waiting_.empty() ? UINT64_MAX : waiting_.top().due_ns; }
  // The next frame that has to leave by now_ns; false when there is none. Its bytes are valid until the next call of accept or take.
  bool take(uint64_t now_ns, Frame* frame);

  const SwitchCounters& counters() const { return counters_; }

 private:
  struct Waiting {
    uint64_t due_ns, sequence;
    uint32_t from, to, slot, num_bytes;
    // The top of a priority queue is its greatest: the one that is due first.
    bool operator<(const Waiting& other) const { return due_ns != other.due_ns ? due_ns > other.due_ns : sequence > other.sequence; }
  };

  struct Path {
    PathConditions conditions;
    uint64_t last_due_ns = 0;
  };
  static constexpr uint32_t kAllOthers = UINT32_MAX;

  uint32_t destination(uint32_t port, const unsigned char* bytes);
  void send(uint32_t from, uint32_t to, const unsigned char* bytes, size_t num_bytes, uint64_t now_ns);
  uint64_t travel_ns(const PathConditions& conditions);
  Path& path(uint32_t from, uint32_t to) { return paths_[static_cast<size_t>(from) * num_ports_ + to]; }
  unsigned char* slot(uint32_t at) { return frames_.get() + at * kMaxFrameBytes; }

  const uint32_t num_ports_;
  std::vector<Path> paths_;  // By port of origin, then by port of destination.
  std::mt19937_64 random_;
  std::unordered_map<uint64_t, uint32_t> port_of_address_;
  std::unique_ptr<unsigned char[]> frames_;  // Slots; a page that no frame used yet takes no memory.
  std::vector<uint32_t> free_slots_;
  std::priority_queue<Waiting> waiting_;
  uint64_t sequence_ = 0;
  SwitchCounters counters_;
};

}  // namespace terabag
