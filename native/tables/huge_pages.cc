#include "tables/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace terabag {
namespace {

uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

void* address(uint64_t value) { return reinterpret_cast<void*>(value); }

}  // namespace

uint64_t page_size() {
  static const uint64_t size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

void* map_aligned(int file, uint64_t size, int protection, bool guard) {
  const int anonymous = file < 0 ? MAP_ANONYMOUS | MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
  const uint64_t alignment = size >= kHugePage ? kHugePage : page_size();
  const uint64_t used = round_up(size, page_size()) + (guard ? page_size() : 0);
  const uint64_t reserved = used + alignment;
  void* space = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return nullptr;
  const uint64_t base = reinterpret_cast<uint64_t>(space);
  const uint64_t start = round_up(base, alignment);
  void* data = mmap(address(start), size, protection, anonymous | MAP_FIXED, file, 0);
  if (data == MAP_FAILED) {
    const int reason = errno;
    munmap(space, reserved);
    errno = reason;
    return nullptr;
  }
  if (start > base) munmap(space, start - base);
  if (base + reserved > start + used) munmap(address(start + used), base + reserved - start - used);
  return data;
}

std::shared_ptr<HugePages> HugePages::reserve(uint64_t size, Failure* failure) {
  size = round_up(size, page_size());
  void* data = map_aligned(-1, size, PROT_READ | PROT_WRITE, true);
  if (data == nullptr) {
    *failure = {"no address space for a table: " + std::to_string(size) + " bytes, " + std::strerror(errno), errno};
    return nullptr;
  }
#ifdef MADV_HUGEPAGE
  madvise(data, size, MADV_HUGEPAGE);
#endif
  return std::shared_ptr<HugePages>(new HugePages(static_cast<unsigned char*>(data), size));
}

void HugePages::seal() const { mprotect(data_, size_, PROT_READ); }

HugePages::~HugePages() { munmap(data_, size_ + page_size()); }

}  // namespace terabag
