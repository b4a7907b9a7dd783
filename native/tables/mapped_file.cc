#include "tables/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace terabag {

namespace {

constexpr uint64_t kHugePage = 2 << 20;

// Maps at an address of which the kernel can back the file with 2 MiB pages; anywhere if that fails.
void* map_aligned(int file, uint64_t size) {
  if (size >= kHugePage) {
    void* space = mmap(nullptr, size + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space != MAP_FAILED) {
      const uint64_t base = reinterpret_cast<uint64_t>(space);
      const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
      const uint64_t start = (base + kHugePage - 1) / kHugePage * kHugePage;
      const uint64_t end = (start + size + page - 1) / page * page;
      const uint64_t space_end = (base + size + kHugePage + page - 1) / page * page;
      void* data = mmap(reinterpret_cast<void*>(start), size, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0);
      if (data != MAP_FAILED) {
        if (start > base) munmap(space, start - base);
        if (space_end > end) munmap(reinterpret_cast<void*>(end), space_end - end);
        return data;
      }
      munmap(space, size + kHugePage);
    }
  }
  return mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
}

}  // namespace

void MappedFile::populate(uint64_t from, uint64_t to) const {
#ifdef MADV_POPULATE_READ
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  from = from / page * page;
  if (to > from) madvise(const_cast<unsigned char*>(data_) + from, to - from, MADV_POPULATE_READ);
#else
  (void)from, (void)to;
#endif
}

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path, std::string* error) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info) != 0 || info.st_size <= 0) {
    *error = "table file cannot be opened or is empty: " + path + ", " + std::strerror(errno);
    if (file >= 0) close(file);
    return nullptr;
  }
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  void* data = map_aligned(file, size);
  close(file);
  if (data == MAP_FAILED) {
    *error = "table file cannot be mapped: " + path + ", " + std::strerror(errno);
    return nullptr;
  }
  return std::shared_ptr<MappedFile>(new MappedFile(static_cast<const unsigned char*>(data), size));
}

MappedFile::~MappedFile() { munmap(const_cast<unsigned char*>(data_), size_); }

}  // namespace terabag
