#pragma once
#include <cstddef>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace terabag {

// Starts on a cache line, so that a 64-byte load of a kernel never takes two; on a huge page where it fills one: weights are read in order
// and whole, and of 4 KiB pages each has its walk of the page table.
template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::size_t kLine = 64, kHugePage = 2u << 20;

  CacheLineAllocator() = default;
  template <typename Other>
  CacheLineAllocator(const CacheLineAllocator<Other>&) {}
  T* allocate(std::size_t count) {
    if (count > static_cast<std::size_t>(-1) / sizeof(T)) throw std::bad_array_new_length();
    const std::size_t bytes = count * sizeof(T);
    void* memory = ::operator new(bytes, alignment(count));
#if defined(__linux__)
    // Where the kernel has none, small pages serve as well.
    if (bytes >= kHugePage) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t count) { ::operator delete(memory, alignment(count)); }
  template <typename Other>
  bool operator==(const CacheLineAllocator<Other>&) const {
    return true;
  }

 private:
  static std::align_val_t alignment(std::size_t count) { return std::align_val_t{count >= kHugePage / sizeof(T) ? kHugePage : kLine}; }
};

using AlignedFloats = std::vector<float, CacheLineAllocator<float>>;

}  // namespace terabag
