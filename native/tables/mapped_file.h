#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace terabag {

// A file mapped read-only. Unmapped when the last owner lets go.
class MappedFile {
 public:
  // Null, and the reason in *error, when it cannot be opened or mapped.
  static std::shared_ptr<MappedFile> open(const std::string& path, std::string* error);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Reads [from, to) in order ahead of use, which lets the kernel fill 2 MiB pages; does nothing where the kernel cannot.
  void populate(uint64_t from, uint64_t to) const;
  const unsigned char* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  MappedFile(const unsigned char* data, uint64_t size) : data_(data), size_(size) {}
  const unsigned char* data_;
  uint64_t size_;
};

}  // namespace terabag
