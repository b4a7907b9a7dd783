#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "tables/failure.h"

namespace terabag {

constexpr uint64_t kHugePage = 2 << 20;

uint64_t page_size();

// Maps size bytes of a file, or anonymous memory when file is -1, at an address that the kernel can back with 2 MiB pages; anywhere if that
// fails. Null, with errno set, when nothing can be mapped. An inaccessible page follows the memory when guard is set; unmap size bytes then
// and that page.
void* map_aligned(int file, uint64_t size, int protection, bool guard);

// Anonymous memory aligned to 2 MiB, which the kernel is asked to back with huge pages. Its first touch takes memory, not its making.
// An inaccessible page behind it keeps the kernel from merging it with a neighbour, and readers from running over.
class HugePages {
 public:
  // Null, and the reason in *failure, when the address space is exhausted.
  static std::shared_ptr<HugePages> reserve(uint64_t size, Failure* failure);
  ~HugePages();
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

  // Ends writing.
  void seal() const;
  unsigned char* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  HugePages(unsigned char* data, uint64_t size) : data_(data), size_(size) {}
  unsigned char* data_;
  uint64_t size_;  // whole pages
};

}  // namespace terabag
