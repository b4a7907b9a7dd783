#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

// The two messages of src/rpc/codec.ts that carry tensors, for a shard that answers without JavaScript. Both are msgpack arrays.
namespace terabag {

constexpr uint8_t kWireVersion = 4;
constexpr size_t kShardStages = 7;  // SHARD_STAGES in src/rpc/messages.ts

using Bytes = std::span<const unsigned char>;

struct PoolMessage {
  Bytes id;             // as it was encoded
  double sent_at_ms;    // on the sender's clock
  double remaining_ms;  // when it was sent
  uint32_t index_bytes;
  Bytes segments, indices, offsets, weights;
  bool timed;
};

// Reads a sound message of this version, whose tensors alias the bytes; false for all others, sound or not, of which nothing is said.
bool parse_pool_message(Bytes bytes, PoolMessage* message);

// A 'pooled' message around vectors that are written where they are sent from.
class PooledMessage {
 public:
  PooledMessage(Bytes id, uint64_t vector_bytes, bool timed);
  uint64_t size() const;
  // The vectors' place in a message that starts at data, aligned for floats when data is.
  unsigned char* vectors(unsigned char* data) const;
  // Everything around the vectors. stages: kShardStages of them, when timed.
  void write(unsigned char* data, double service_us, const double* stages) const;

 private:
  uint64_t head_bytes() const;

  Bytes id_;
  uint64_t vector_bytes_;
  bool timed_;
  size_t padding_;
};

}  // namespace terabag
