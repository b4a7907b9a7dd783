#include "tables/residency.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>

#include "tables/huge_pages.h"
#if defined(__linux__)
#include <linux/capability.h>
#endif

namespace terabag {
namespace {

// A vector of a byte per page: 1 GiB at a time.
constexpr uint64_t kPagesAtOnce = 1 << 18;

bool acts_as_owner() {
#if defined(__linux__)
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  return syscall(SYS_capget, &header, data) == 0 && (data[0].effective & (1u << CAP_FOWNER)) != 0;
#else
  return false;
#endif
}

}  // namespace

uint64_t resident_bytes(AddressRange range) {
  const uint64_t page = page_size();
  uint64_t bytes = 0;
#if defined(__linux__)
  std::vector<unsigned char> pages(std::min(kPagesAtOnce, (range.to - range.from) / page + 2));
  for (uint64_t at = range.from / page * page; at < range.to;) {
    const uint64_t count = std::min<uint64_t>(pages.size(), (range.to - at + page - 1) / page);
    if (mincore(reinterpret_cast<void*>(at), count * page, pages.data()) != 0) return bytes;
    for (uint64_t p = 0; p < count; ++p, at += page) {
      if ((pages[p] & 1) != 0) bytes += std::min(at + page, range.to) - std::max(at, range.from);
    }
  }
#else
  (void)page, (void)range;
#endif
  return bytes;
}

bool tells_what_is_cached(const std::string& path) {
  struct stat info;
  return acts_as_owner() || access(path.c_str(), W_OK) == 0 || (stat(path.c_str(), &info) == 0 && info.st_uid == geteuid());
}

std::vector<std::string> smaps_entries(const std::vector<std::vector<AddressRange>>& groups) {
  std::vector<std::string> entries(groups.size());
  std::ifstream smaps("/proc/self/smaps");
  std::vector<size_t> wanted_by;
  for (std::string line; std::getline(smaps, line);) {
    uint64_t from = 0, to = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) {
      wanted_by.clear();
      for (size_t g = 0; g < groups.size(); ++g) {
        const auto overlaps = [from, to](const AddressRange& range) { return range.from < to && from < range.to; };
        if (std::any_of(groups[g].begin(), groups[g].end(), overlaps)) wanted_by.push_back(g);
      }
    }
    for (const size_t g : wanted_by) entries[g] += line + '\n';
  }
  return entries;
}

}  // namespace terabag
