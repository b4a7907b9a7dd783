#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/sparse_engine.h"
#include "wire/pool_message.h"
#include "wire/zeromq_socket.h"

namespace terabag {

// Answers small requests to pool where they are received, on the socket's thread: what comes back is pooled into the message that is sent.
// Everything else is left to the caller as it is: other messages, large requests, unsound ones, and those that are past their deadline.
class PoolService {
 public:
  // A request is worth ns_per_index for each of its indices. At most budget_ns are pooled in a row, and at most busy_budget_ns while other
  // messages wait, which threads could pool meanwhile. stamp: of what the engine holds; requests with another are left to the caller.
  PoolService(std::shared_ptr<const SparseEngine> engine, Bytes stamp, double ns_per_index, double budget_ns, double busy_budget_ns);

  // How far the steady clock here, ms, is ahead of the peer's, so that what a request waited in the socket counts against its deadline.
  void set_clock_offset(const std::string& peer, double offset_ms);
  // Of a peer that is gone.
  void forget(const std::string& peer) { clock_offsets_.erase(peer); }

  // Answers the message that the socket holds and drops it. False, and the message is still held, when it is not one for it.
  bool answer(ZeromqSocket& socket);

  // Adds what this service counted, under the names of a shard's stats (src/rpc/shard-stats.ts).
  void add_counts(std::map<std::string, uint64_t>* counts) const;

 private:
  double remaining_ms(const PoolMessage& message, const std::string& peer, uint64_t now_ns) const;
  bool worth(const PoolMessage& message, uint64_t floats, const ZeromqSocket& socket) const;

  std::shared_ptr<const SparseEngine> engine_;
  std::vector<unsigned char> stamp_;
  double ns_per_index_, budget_ns_, busy_budget_ns_;
  std::unordered_map<std::string, double> clock_offsets_;
  std::vector<uint64_t> counts_;
};

}  // namespace terabag
