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

FrameSwitch::FrameSwitch(uint32_t num_ports, const PathConditions& conditions)
    : num_ports_(num_ports),
      conditions_(conditions),
      random_(conditions.seed),
      last_due_ns_(num_ports, 0),
      frames_(new unsigned char[kMaxWaiting * kMaxFrameBytes]) {
  for (uint32_t at = kMaxWaiting; at-- > 0;) free_slots_.push_back(at);
}

void FrameSwitch::accept(uint32_t port, const unsigned char* bytes, size_t num_bytes, uint64_t now_ns) {
  ++counters_.accepted;
  if (port >= num_ports_ || num_bytes < kMinFrameBytes || num_bytes > kMaxFrameBytes) {
    ++counters_.malformed;
    return;
  }
  const uint32_t to = destination(port, bytes);
  if (to == port) return;
  if (conditions_.loss_ppm > 0 && random_() % kMillion < conditions_.loss_ppm) {
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
  uint64_t& last_due_ns = last_due_ns_[port];
  last_due_ns = std::max(last_due_ns, now_ns + travel_ns());
  waiting_.push({last_due_ns, sequence_++, port, to, at, static_cast<uint32_t>(num_bytes)});
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

uint64_t FrameSwitch::travel_ns() {
  if (conditions_.jitter_ns == 0) return conditions_.delay_ns;
  return conditions_.delay_ns - conditions_.jitter_ns + random_() % (2 * conditions_.jitter_ns + 1);
}

}  // namespace terabag
