#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace terabag {

// How tables are held in memory; see Residency in src/engine/residency.ts.
enum class Residency { kMap, kPopulate, kLock, kHugePages };

// Addresses [from, to).
struct AddressRange {
  uint64_t from, to;
};

// Bytes of [from, to) that are in memory, whether or not this process has mapped them. With files that this process may neither write nor
// owns, the kernel says of every page that it is: see tells_what_is_cached.
uint64_t resident_bytes(AddressRange range);
bool tells_what_is_cached(const std::string& path);

// What /proc/self/smaps says of the mappings that overlap each of the groups of ranges: whole entries, as the kernel wrote them. Empty
// strings where there is no such file. The kernel walks the page tables of the whole process for it.
std::vector<std::string> smaps_entries(const std::vector<std::vector<AddressRange>>& groups);

}  // namespace terabag
