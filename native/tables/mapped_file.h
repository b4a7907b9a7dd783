#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "tables/failure.h"
#include "tables/mapping_faults.h"

namespace terabag {

// Which file a path named when it was looked at, so that another one under the same name is noticed.
struct FileIdentity {
  std::string path;
  uint64_t device = 0, inode = 0, size = 0;

  // Opens the file for reading and sets *identity; -1, and the reason in *failure, when it cannot be opened or is empty. The caller closes
  // it.
  static int open(const std::string& path, FileIdentity* identity, Failure* failure);
};

// A file mapped read-only. Unmapped when the last owner lets go. Reading rows of a file that somebody shortens while it is mapped ends the
// process with SIGBUS, whose last line names the file; bundles are replaced by renaming, never rewritten.
class MappedFile {
 public:
  // Null, and the reason in *failure, when it cannot be opened or mapped.
  static std::shared_ptr<MappedFile> open(const std::string& path, Failure* failure);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Lets reads fill the page cache with 2 MiB pages from the first byte on; by itself readahead gets there only after some 32 MiB.
  void prefer_huge_pages() const;
  // Brings [from, to) into memory and maps it. 0, or an errno: EFAULT when the file cannot be read or is shorter by now.
  int populate(uint64_t from, uint64_t to) const;
  // Populates [from, to) and keeps it in memory. 0, or an errno.
  int lock(uint64_t from, uint64_t to) const;
  // Forgets the file's pages here and asks the kernel to drop them from the page cache, which it does as far as no process maps them.
  // 0, or an errno.
  int drop() const;

  const std::string& path() const { return identity_.path; }
  const unsigned char* data() const { return data_; }
  uint64_t size() const { return identity_.size; }

 private:
  MappedFile(const unsigned char* data, FileIdentity identity)
      : data_(data), identity_(std::move(identity)), faults_(data, identity_.size, identity_.path) {}
  const unsigned char* data_;
  FileIdentity identity_;
  MappingFaults faults_;
};

}  // namespace terabag
