#include "wire/pool_message.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "wire/crc32c.h"

namespace terabag {
namespace {

// Type bytes of msgpack (github.com/msgpack/msgpack, spec.md).
enum : unsigned char {
  kFixArray = 0x90,
  kFixString = 0xa0,
  kNil = 0xc0,
  kFalse = 0xc2,
  kTrue = 0xc3,
  kBin8 = 0xc4,
  kBin16 = 0xc5,
  kBin32 = 0xc6,
  kFloat32 = 0xca,
  kFloat64 = 0xcb,
  kUint8 = 0xcc,
  kUint16 = 0xcd,
  kUint32 = 0xce,
  kUint64 = 0xcf,
  kString8 = 0xd9,
};

constexpr double kMaxId = 9007199254740991;  // 2^53 - 1

uint64_t big_endian(const unsigned char* bytes, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}
void put_big_endian(unsigned char* bytes, size_t count, uint64_t value) {
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<unsigned char>(value >> 8 * (count - 1 - i));
}

class Reader {
 public:
  explicit Reader(Bytes bytes) : left_(bytes) {}

  Bytes take(size_t count) {
    if (count > left_.size()) {
      sound_ = false;
      return {};
    }
    const Bytes taken = left_.first(count);
    left_ = left_.subspan(count);
    return taken;
  }
  unsigned char type() {
    const Bytes byte = take(1);
    return byte.empty() ? static_cast<unsigned char>(0xc1) : byte[0];  // 0xc1 is never used
  }
  uint64_t count(size_t bytes) {
    const Bytes taken = take(bytes);
    return taken.empty() ? 0 : big_endian(taken.data(), bytes);
  }

  // 0 or more.
  double number() {
    const unsigned char first = type();
    double value = -1;
    if (first < 0x80)
      value = first;
    else if (first == kUint8)
      value = static_cast<double>(count(1));
    else if (first == kUint16)
      value = static_cast<double>(count(2));
    else if (first == kUint32)
      value = static_cast<double>(count(4));
    else if (first == kUint64)
      value = static_cast<double>(count(8));
    else if (first == kFloat32)
      value = std::bit_cast<float>(static_cast<uint32_t>(count(4)));
    else if (first == kFloat64)
      value = std::bit_cast<double>(count(8));
    sound_ = sound_ && std::isfinite(value) && value >= 0;
    return value;
  }
  Bytes id(double* value) {
    const Bytes before = left_;
    *value = number();
    sound_ = sound_ && *value <= kMaxId && *value == std::floor(*value);
    return before.first(before.size() - left_.size());
  }
  Bytes binary() { return binary(type()); }
  Bytes binary_or_nil() {
    const unsigned char first = type();
    return first == kNil ? Bytes() : binary(first);
  }
  bool flag() {
    const unsigned char first = type();
    sound_ = sound_ && (first == kTrue || first == kFalse);
    return first == kTrue;
  }
  void expect(const char* word) {
    const size_t length = std::strlen(word);
    const Bytes taken = take(1 + length);
    sound_ = sound_ && taken[0] == (kFixString | length) && std::memcmp(taken.data() + 1, word, length) == 0;
  }
  void expect(unsigned char byte) { sound_ = sound_ && type() == byte; }
  bool sound() const { return sound_; }
  bool at_end() const { return sound_ && left_.empty(); }

 private:
  Bytes binary(unsigned char first) {
    const size_t bytes = first == kBin8 ? 1 : first == kBin16 ? 2 : first == kBin32 ? 4 : 0;
    sound_ = sound_ && bytes > 0;
    return sound_ ? take(count(bytes)) : Bytes();
  }

  Bytes left_;
  bool sound_ = true;
};

constexpr char kPooled[] = "pooled";
constexpr size_t kPooledLength = sizeof kPooled - 1;
// Array, version, kind, stamp, time, and what is in front of the vectors.
constexpr uint64_t kFixedHead = 1 + 1 + 1 + kPooledLength + 2 + kStampBytes + 9 + 5;
constexpr uint64_t kChecksumBytes = 5;
constexpr uint64_t kStagesBytes = kShardStages * sizeof(double);

}  // namespace

bool parse_pool_message(Bytes bytes, PoolMessage* message) {
  Reader reader(bytes);
  reader.expect(static_cast<unsigned char>(kFixArray + 12));
  reader.expect(kWireVersion);
  if (!reader.sound() || bytes.size() < 8) return false;
  reader.expect("pool");
  message->id = reader.id(&message->id_number);
  message->stamp = reader.binary();
  if (!reader.sound() || message->stamp.size() != kStampBytes) return false;
  message->sent_at_ms = reader.number();
  message->remaining_ms = reader.number();
  const double index_bytes = reader.number();
  if (!reader.sound() || (index_bytes != 4 && index_bytes != 8)) return false;
  message->index_bytes = static_cast<uint32_t>(index_bytes);
  message->segments = reader.binary();
  message->indices = reader.binary();
  message->offsets = reader.binary();
  message->weights = reader.binary_or_nil();
  message->timed = reader.flag();
  return reader.at_end();
}

uint32_t answer_checksum(double id, Bytes stamp, Bytes vectors) {
  unsigned char id_bytes[sizeof id];
  std::memcpy(id_bytes, &id, sizeof id);
  return crc32c(crc32c(crc32c(0, id_bytes), stamp), vectors);
}

PooledMessage::PooledMessage(const PoolMessage& asked, uint64_t vector_bytes)
    : asked_(asked), vector_bytes_(vector_bytes), padding_((4 - (kFixedHead + asked.id.size()) % 4) % 4) {}

uint64_t PooledMessage::head_bytes() const { return kFixedHead + asked_.id.size() + padding_; }

uint64_t PooledMessage::size() const { return head_bytes() + vector_bytes_ + kChecksumBytes + (asked_.timed ? 2 + kStagesBytes : 1); }

unsigned char* PooledMessage::vectors(unsigned char* data) const { return data + head_bytes(); }

// Padding: the version as an integer of 8 or 16 bits takes one byte or two more than it has to, the word with its length apart one more.
void PooledMessage::write(unsigned char* data, double service_us, const double* stages) const {
  unsigned char* at = data;
  *at++ = kFixArray + 8;
  if (padding_ == 1) *at++ = kUint8;
  if (padding_ >= 2) *at++ = kUint16, *at++ = 0;
  *at++ = kWireVersion;
  if (padding_ == 3)
    *at++ = kString8, *at++ = kPooledLength;
  else
    *at++ = kFixString | kPooledLength;
  std::memcpy(at, kPooled, kPooledLength);
  at += kPooledLength;
  std::memcpy(at, asked_.id.data(), asked_.id.size());
  at += asked_.id.size();
  *at++ = kBin8, *at++ = kStampBytes;
  std::memcpy(at, asked_.stamp.data(), kStampBytes);
  at += kStampBytes;
  *at++ = kFloat64;
  put_big_endian(at, 8, std::bit_cast<uint64_t>(service_us));
  at += 8;
  *at++ = kBin32;
  put_big_endian(at, 4, vector_bytes_);
  at += 4 + vector_bytes_;
  *at++ = kUint32;
  put_big_endian(at, 4, answer_checksum(asked_.id_number, asked_.stamp, {vectors(data), vector_bytes_}));
  at += 4;
  if (!asked_.timed) {
    *at = kNil;
    return;
  }
  *at++ = kBin8;
  *at++ = kStagesBytes;
  std::memcpy(at, stages, kStagesBytes);
}

}  // namespace terabag
