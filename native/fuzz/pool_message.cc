// libFuzzer target: any bytes as a message to a shard. One that is taken lies in its bytes, tensor by tensor, in order; its answer fills
// the memory that it asks for, which the sanitizers watch.
#include "wire/pool_message.h"

#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace terabag;
  PoolMessage message;
  if (!parse_pool_message({data, size}, &message)) return 0;
  const unsigned char* at = data;
  for (const Bytes& field : {message.id, message.stamp, message.segments, message.indices, message.offsets, message.weights}) {
    if (field.data() == nullptr) continue;
    if (field.data() < at || field.data() + field.size() > data + size) std::abort();
    at = field.data() + field.size();
  }
  if (message.id.empty() || message.id.size() > 9 || message.stamp.size() != kStampBytes || !(message.remaining_ms >= 0)) std::abort();
  const PooledMessage answer(message, message.indices.size() / 4 * 4);
  std::vector<unsigned char> bytes(answer.size());
  const double stages[kShardStages] = {};
  unsigned char* vectors = answer.vectors(bytes.data());
  if ((vectors - bytes.data()) % 4 != 0) std::abort();
  std::memset(vectors, 7, message.indices.size() / 4 * 4);
  answer.write(bytes.data(), 1, stages);
  if (bytes.back() != (message.timed ? 0 : 0xc0)) std::abort();
  return 0;
}
