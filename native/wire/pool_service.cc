#include "wire/pool_service.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "engine/job_clock.h"
#include "engine/thread_pool.h"

namespace terabag {
namespace {

// Peers whose clocks are known; what strangers send must not take more memory.
constexpr size_t kMaxPeers = 4096;
// A deadline nearer than that is for the caller, who says when it has passed.
constexpr double kLeastRemainingMs = 5;
// SHARD_STAGES in src/rpc/messages.ts.
enum Stage { kDeserialize, kDispatch, kQueue, kPool, kHandBack, kSerialize, kPoolCpu };

// Counters of src/rpc/shard-stats.ts; src/rpc/server.ts counts the requests that do not end here.
enum Count { kRequests, kUndeliverable };
constexpr const char* kCountNames[] = {"requests", "undeliverable"};

double us_between(uint64_t from_ns, uint64_t to_ns) { return static_cast<double>(to_ns - from_ns) / 1000; }

}  // namespace

PoolService::PoolService(std::shared_ptr<const SparseEngine> engine, Bytes stamp, double ns_per_index, double budget_ns,
                         double busy_budget_ns)
    : engine_(std::move(engine)),
      stamp_(stamp.begin(), stamp.end()),
      ns_per_index_(ns_per_index),
      budget_ns_(budget_ns),
      busy_budget_ns_(busy_budget_ns),
      counts_(std::size(kCountNames)) {}

void PoolService::add_counts(std::map<std::string, uint64_t>* counts) const {
  for (size_t count = 0; count < counts_.size(); ++count) (*counts)[kCountNames[count]] += counts_[count];
}

void PoolService::set_clock_offset(const std::string& peer, double offset_ms) {
  if (clock_offsets_.size() >= kMaxPeers && clock_offsets_.find(peer) == clock_offsets_.end()) clock_offsets_.clear();
  clock_offsets_[peer] = offset_ms;
}

// Without a known clock, a message counts as received when it was sent.
double PoolService::remaining_ms(const PoolMessage& message, const std::string& peer, uint64_t now_ns) const {
  const auto offset = clock_offsets_.find(peer);
  if (offset == clock_offsets_.end()) return message.remaining_ms;
  const double waited_ms = static_cast<double>(now_ns) / 1e6 - message.sent_at_ms - offset->second;
  return waited_ms > 0 ? message.remaining_ms - waited_ms : message.remaining_ms;
}

bool PoolService::worth(const PoolMessage& message, uint64_t floats, const ZeromqSocket& socket) const {
  // What a segment and a bag cost, roughly; so that many without ids are not taken for nothing.
  constexpr double kNsPerSegment = 20, kNsPerBag = 5;
  const double ns = ns_per_index_ * static_cast<double>(message.indices.size() / message.index_bytes) + static_cast<double>(floats) / 8 +
                    kNsPerSegment * static_cast<double>(message.segments.size() / kSegmentBytes) +
                    kNsPerBag * static_cast<double>(message.offsets.size() / sizeof(uint32_t));
  return ns <= busy_budget_ns_ || (ns <= budget_ns_ && !socket.readable());
}

bool PoolService::answer(ZeromqSocket& socket) {
  const uint64_t received_ns = steady_ns();
  PoolMessage message;
  if (!parse_pool_message(socket.body(), &message) || remaining_ms(message, socket.peer(), received_ns) < kLeastRemainingMs) return false;
  if (!std::equal(stamp_.begin(), stamp_.end(), message.stamp.begin(), message.stamp.end())) return false;
  const uint64_t parsed_ns = steady_ns();
  const std::optional<uint64_t> floats = engine_->output_length(message.segments.data(), message.segments.size(), message.offsets.size());
  if (!floats || !worth(message, *floats, socket)) return false;
  const PooledMessage answer(message, *floats * sizeof(float));
  OutgoingMessage outgoing(socket, socket.peer(), answer.size());
  if (outgoing.data() == nullptr) return false;
  const uint64_t dispatched_ns = steady_ns();
  uint64_t cpu_ns = 0;
  const PoolStatus status = engine_->pool({message.segments.data(), message.segments.size(), message.index_bytes, message.indices.data(),
                                           message.indices.size(), message.offsets.data(), message.offsets.size(), message.weights.data(),
                                           message.weights.size(), reinterpret_cast<float*>(answer.vectors(outgoing.data())), *floats},
                                          ThreadPool::shared().num_threads(), message.timed ? &cpu_ns : nullptr);
  if (status.status != nullptr) return false;
  const uint64_t pooled_ns = steady_ns();
  double stages[kShardStages] = {};
  stages[kDeserialize] = us_between(received_ns, parsed_ns);
  stages[kDispatch] = us_between(parsed_ns, dispatched_ns);
  stages[kPool] = us_between(dispatched_ns, pooled_ns);
  stages[kPoolCpu] = static_cast<double>(cpu_ns) / 1000;
  stages[kSerialize] = us_between(pooled_ns, steady_ns());
  answer.write(outgoing.data(), us_between(received_ns, pooled_ns), stages);
  ++counts_[kRequests];
  if (!outgoing.send()) ++counts_[kUndeliverable];
  socket.drop();
  return true;
}

}  // namespace terabag
