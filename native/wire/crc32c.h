#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace terabag {

// CRC-32C (Castagnoli; RFC 3720, appendix B.4) of the bytes behind those that `crc` is of; 0 is that of none.
uint32_t crc32c(uint32_t crc, std::span<const unsigned char> bytes);

}  // namespace terabag
