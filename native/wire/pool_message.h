#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

// The two messages of src/rpc/codec.ts that carry tensors, for a shard that answers without JavaScript. Both are msgpack arrays.
namespace terabag {

constexpr uint8_t kWireVersion = 5;
constexpr size_t kStampBytes = 24;  // src/rpc/version.ts
constexpr size_t kShardStages = 7;  // SHARD_STAGES in src/rpc/messages.ts

using Bytes = std::span<const unsigned char>;

struct PoolMessage {
  Bytes id;  // as it was encoded
  double id_number;
  Bytes stamp;          // kStampBytes
  double sent_at_ms;    // on the sender's clock
  double remaining_ms;  // when it was sent
  uint32_t index_bytes;
  Bytes segments, indices, offsets, weights;
  bool timed;
};

// Reads a sound message of this version, whose tensors alias the bytes; false for all others, sound or not, of which nothing is said.
bool parse_pool_message(Bytes bytes, PoolMessage* message);

// Tells an answer from one that was damaged, or is of another request or version: CRC-32C of the id (float64), the stamp and the vectors.
uint32_t answer_checksum(double id, Bytes stamp, Bytes vectors);

// A 'pooled' message around vectors that are written where they are sent from.
class PooledMessage {
 public:
  // Of what was asked, whose bytes have to stay.
  PooledMessage(const PoolMessage& asked, uint64_t vector_bytes);
  uint64_t size() const;
  // The vectors' place in a message that starts at data, aligned for floats when data is.
  unsigned char* vectors(unsigned char* data) const;
  // Everything around the vectors, which are there. stages: kShardStages of them, when timed.
  void write(unsigned char* data, double service_us, const double* stages) const;

 private:
  uint64_t head_bytes() const;

  const PoolMessage& asked_;
  uint64_t vector_bytes_;
  size_t padding_;
};

}  // namespace terabag
