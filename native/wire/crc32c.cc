#include "wire/crc32c.h"

#include <bit>
#include <cstring>
#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace terabag {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // bits reversed

// bytes[n][value]: the remainder of a byte that n zero bytes follow.
struct ByteTables {
  uint32_t bytes[8][256];
};
constexpr ByteTables make_byte_tables() {
  ByteTables tables{};
  for (uint32_t value = 0; value < 256; ++value) {
    uint32_t crc = value;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    tables.bytes[0][value] = crc;
  }
  for (int n = 1; n < 8; ++n)
    for (uint32_t value = 0; value < 256; ++value) {
      const uint32_t before = tables.bytes[n - 1][value];
      tables.bytes[n][value] = tables.bytes[0][before & 0xff] ^ (before >> 8);
    }
  return tables;
}
constexpr ByteTables kTables = make_byte_tables();

uint32_t add_byte(uint32_t crc, unsigned char byte) { return kTables.bytes[0][(crc ^ byte) & 0xff] ^ (crc >> 8); }

// Eight bytes in the order of memory.
struct Portable {
  static uint32_t add(uint32_t crc, uint64_t word) {
    word ^= crc;
    uint32_t sum = 0;
    for (int n = 0; n < 8; ++n) sum ^= kTables.bytes[7 - n][word >> (8 * n) & 0xff];
    return sum;
  }
};
#if defined(__x86_64__)
struct Instruction {
  static bool available() { return true; }  // x86-64-v2, which all of this is compiled for, has it.
  static uint32_t add(uint32_t crc, uint64_t word) { return static_cast<uint32_t>(_mm_crc32_u64(crc, word)); }
};
#elif defined(__aarch64__)
struct Instruction {
  static bool available() {
#if defined(__linux__)
    constexpr unsigned long kHasCrc32 = 1 << 7;  // HWCAP_CRC32
    return (getauxval(AT_HWCAP) & kHasCrc32) != 0;
#else
    return true;
#endif
  }
  static uint32_t add(uint32_t crc, uint64_t word) {
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    return crc;
  }
};
#endif

// One instruction takes three cycles and starts each cycle: three parts side by side, of this length each.
constexpr size_t kPartBytes = 512;

// What a remainder becomes when kPartBytes zero bytes follow: linear, so by the byte of the remainder.
struct PartTables {
  uint32_t bytes[4][256];
};
constexpr PartTables make_part_tables() {
  uint32_t of_bit[32] = {};
  for (int bit = 0; bit < 32; ++bit) {
    uint32_t crc = uint32_t{1} << bit;
    for (size_t n = 0; n < kPartBytes; ++n) crc = kTables.bytes[0][crc & 0xff] ^ (crc >> 8);
    of_bit[bit] = crc;
  }
  PartTables tables{};
  for (int byte = 0; byte < 4; ++byte)
    for (uint32_t value = 0; value < 256; ++value)
      for (int bit = 0; bit < 8; ++bit)
        if ((value >> bit & 1) != 0) tables.bytes[byte][value] ^= of_bit[8 * byte + bit];
  return tables;
}
constexpr PartTables kPart = make_part_tables();

uint32_t followed_by_part(uint32_t crc) {
  return kPart.bytes[0][crc & 0xff] ^ kPart.bytes[1][crc >> 8 & 0xff] ^ kPart.bytes[2][crc >> 16 & 0xff] ^ kPart.bytes[3][crc >> 24];
}

uint64_t word_at(const unsigned char* bytes) {
  static_assert(std::endian::native == std::endian::little);
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

template <typename Step>
uint32_t add(uint32_t crc, const unsigned char* at, size_t bytes) {
  for (; bytes >= 3 * kPartBytes; at += 3 * kPartBytes, bytes -= 3 * kPartBytes) {
    uint32_t second = 0, third = 0;
    for (size_t n = 0; n < kPartBytes; n += 8) {
      crc = Step::add(crc, word_at(at + n));
      second = Step::add(second, word_at(at + kPartBytes + n));
      third = Step::add(third, word_at(at + 2 * kPartBytes + n));
    }
    crc = followed_by_part(followed_by_part(crc) ^ second) ^ third;
  }
  for (; bytes >= 8; at += 8, bytes -= 8) crc = Step::add(crc, word_at(at));
  for (; bytes > 0; ++at, --bytes) crc = add_byte(crc, *at);
  return crc;
}

}  // namespace

uint32_t crc32c(uint32_t crc, std::span<const unsigned char> bytes) {
  crc = ~crc;
#if defined(__x86_64__) || defined(__aarch64__)
  static const bool has_instruction = Instruction::available();
  if (has_instruction) return ~add<Instruction>(crc, bytes.data(), bytes.size());
#endif
  return ~add<Portable>(crc, bytes.data(), bytes.size());
}

}  // namespace terabag
