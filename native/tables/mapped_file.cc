#include "tables/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "tables/huge_pages.h"

namespace terabag {
namespace {

constexpr uint64_t kReadBytes = 4 << 20;

// Reads [from, to) into the page cache, where the kernel cannot populate mappings (Linux before 5.14).
int read_through(const std::string& path, uint64_t from, uint64_t to) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno;
  std::vector<unsigned char> buffer(std::min(kReadBytes, to - from));
  int failure = 0;
  while (from < to && failure == 0) {
    const ssize_t got = pread(file, buffer.data(), std::min<uint64_t>(buffer.size(), to - from), static_cast<off_t>(from));
    if (got > 0) {
      from += static_cast<uint64_t>(got);
    } else if (got == 0 || errno != EINTR) {
      failure = got == 0 ? EFAULT : errno;
    }
  }
  close(file);
  return failure;
}

}  // namespace

int FileIdentity::open(const std::string& path, FileIdentity* identity, Failure* failure) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info) != 0) {
    *failure = {"table file cannot be opened: " + path + ", " + std::strerror(errno), errno};
  } else if (info.st_size <= 0) {
    *failure = {"table file is empty: " + path};
  } else {
    *identity = {path, static_cast<uint64_t>(info.st_dev), static_cast<uint64_t>(info.st_ino), static_cast<uint64_t>(info.st_size)};
    return file;
  }
  if (file >= 0) close(file);
  return -1;
}

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path, Failure* failure) {
  FileIdentity identity;
  const int file = FileIdentity::open(path, &identity, failure);
  if (file < 0) return nullptr;
  void* data = map_aligned(file, identity.size, PROT_READ, false);
  const int reason = errno;
  close(file);
  if (data == nullptr) {
    *failure = {"table file cannot be mapped: " + path + ", " + std::strerror(reason), reason};
    return nullptr;
  }
  return std::shared_ptr<MappedFile>(new MappedFile(static_cast<const unsigned char*>(data), std::move(identity)));
}

void MappedFile::prefer_huge_pages() const {
#ifdef MADV_HUGEPAGE
  madvise(const_cast<unsigned char*>(data_), size(), MADV_HUGEPAGE);
#endif
}

int MappedFile::populate(uint64_t from, uint64_t to) const {
  if (to <= from) return 0;
#ifdef MADV_POPULATE_READ
  const uint64_t start = from / page_size() * page_size();
  if (madvise(const_cast<unsigned char*>(data_) + start, to - start, MADV_POPULATE_READ) == 0) return 0;
  if (errno != EINVAL) return errno;
#endif
  return read_through(path(), from, to);
}

int MappedFile::lock(uint64_t from, uint64_t to) const {
  const int failure = populate(from, to);
  if (failure != 0 || to <= from) return failure;
  const uint64_t start = from / page_size() * page_size();
  return mlock(data_ + start, to - start) == 0 ? 0 : errno;
}

int MappedFile::drop() const {
#ifdef POSIX_FADV_DONTNEED
  madvise(const_cast<unsigned char*>(data_), size(), MADV_DONTNEED);
  const int file = ::open(path().c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno;
  // Pages that wait to be written cannot be dropped.
  const int failure = fdatasync(file) == 0 ? posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) : errno;
  close(file);
  return failure;
#else
  return ENOTSUP;
#endif
}

MappedFile::~MappedFile() { munmap(const_cast<unsigned char*>(data_), size()); }

}  // namespace terabag
