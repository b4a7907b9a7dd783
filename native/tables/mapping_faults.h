#pragma once
#include <cstdint>
#include <string>

namespace terabag {

// While it lives, a SIGBUS of this mapping is told on stderr by the name of its file, and ends the process as it would have: somebody cut
// the file short, or its disk failed. A handler of SIGBUS that the process had before the first one stays, and is told of nothing here.
class MappingFaults {
 public:
  MappingFaults(const unsigned char* data, uint64_t size, const std::string& path);
  ~MappingFaults();
  MappingFaults(const MappingFaults&) = delete;
  MappingFaults& operator=(const MappingFaults&) = delete;

 private:
  struct Mapping;
  friend struct FaultHandler;
  Mapping* mapping_;
};

}  // namespace terabag
