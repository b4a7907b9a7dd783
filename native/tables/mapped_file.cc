#include "tables/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace terabag {

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path, std::string* error) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info) != 0 || info.st_size <= 0) {
    *error = "table file cannot be opened or is empty: " + path + ", " + std::strerror(errno);
    if (file >= 0) close(file);
    return nullptr;
  }
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (data == MAP_FAILED) {
    *error = "table file cannot be mapped: " + path + ", " + std::strerror(errno);
    return nullptr;
  }
  return std::shared_ptr<MappedFile>(new MappedFile(static_cast<const unsigned char*>(data), size));
}

MappedFile::~MappedFile() { munmap(const_cast<unsigned char*>(data_), size_); }

}  // namespace terabag
