#include "lab/frame_switch.h"

#include <algorithm>
#include <cstring>

namespace terabag {
namespace {

constexpr uint32_t kMillion = 1'000'000;
constexpr size_t kAddressBytes = 6;

uint64_t address_at(const unsigned char* bytes) {
  uint64_t address = 0;
  for (size_t i = 0; i < kAddressBytes; ++i) address = address << 8 | bytes[i];
  return address;
}

bool for_several(const unsigned char* address) { return (address[0] & 1) != 0; }

}  // namespace

FrameSwitch::FrameSwitch(uint32_t num_ports, const PathConditions& conditions, uint64_t seed)
    : num_ports_(num_ports),
      paths_(static_cast<size_t>(num_ports) * num_ports, Path{conditions}),
      random_(seed),
      frames_(new unsigned char[kMaxWaiting * kMaxFrameBytes]) {
  for (uint32_t at = kMaxWaiting; at-- > 0;) free_slots_.push_back(at);
}

void FrameSwitch::set_path(uint32_t from, uint32_t to, const PathConditions& conditions) {
  if (from < num_ports_ && to < num_ports_) path(from, to).conditions = conditions;
}

void FrameSwitch::accept(uint32_t port, const unsigned char* bytes, size_t num_bytes, uint64_t now_ns) {
  if (port >= num_ports_ || num_bytes < kMinFrameBytes || num_bytes > kMaxFrameBytes) {
    ++counters_.accepted;
    ++counters_.malformed;
    return;
  }
  const uint32_t to = destination(port, bytes);
  if (to != kAllOthers) {
    send(port, to, bytes, num_bytes, now_ns);
    return;
  }
  for (uint32_t other = 0; other < num_ports_; ++other) {
    if (other != port) send(port, other, bytes, num_bytes, now_ns);
  }
}

void FrameSwitch::send(uint32_t from, uint32_t to, const unsigned char* bytes, size_t num_bytes, uint64_t now_ns) {
  ++counters_.accepted;
  if (to == from) return;
  Path& way = path(from, to);
  const uint32_t loss_ppm = way.conditions.loss_ppm;
  if (loss_ppm > 0 && random_() % kMillion < loss_ppm) {
    ++counters_.lost;
    return;
  }
  if (free_slots_.empty()) {
    ++counters_.overflowed;
    return;
  }
  const uint32_t at = free_slots_.back();
  free_slots_.pop_back();
  std::memcpy(slot(at), bytes, num_bytes);
  way.last_due_ns = std::max(way.last_due_ns, now_ns + travel_ns(way.conditions));
  waiting_.push({way.last_due_ns, sequence_++, from, to, at, static_cast<uint32_t>(num_bytes)});
}

bool FrameSwitch::take(uint64_t now_ns, Frame* frame) {
  if (waiting_.empty() || waiting_.top().due_ns > now_ns) return false;
  const Waiting next = waiting_.top();
  waiting_.pop();
  free_slots_.push_back(next.slot);  // Its bytes stay as they are until the next accept.
  ++counters_.delivered;
  *frame = {next.from, next.to, slot(next.slot), next.num_bytes};
  return true;
}

// Learns where the sender is, and says where the frame goes. Forged senders fill the table at most; then frames go to all.
uint32_t FrameSwitch::destination(uint32_t port, const unsigned char* bytes) {
  const unsigned char* sender = bytes + kAddressBytes;
  if (!for_several(sender)) {
    const auto known = port_of_address_.find(address_at(sender));
    if (known != port_of_address_.end()) {
      known->second = port;
    } else if (port_of_address_.size() < kMaxLearned) {
      port_of_address_.emplace(address_at(sender), port);
    }
  }
  if (for_several(bytes)) return kAllOthers;
  const auto known = port_of_address_.find(address_at(bytes));
  return known == port_of_address_.end() ? kAllOthers : known->second;
}

uint64_t FrameSwitch::travel_ns(const PathConditions& conditions) {
  if (conditions.jitter_ns == 0) return conditions.delay_ns;
  return conditions.delay_ns - conditions.jitter_ns + random_() % (2 * conditions.jitter_ns + 1);
}

}  // namespace terabag
