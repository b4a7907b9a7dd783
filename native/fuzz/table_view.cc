// libFuzzer target: any description of a table in a file of any length. It is refused, or all of its rows can be read.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "engine/sparse_engine.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace terabag;
  uint64_t fields[8] = {};
  std::memcpy(fields, data, size < sizeof fields ? size : sizeof fields);
  static char path[] = "/tmp/terabag-fuzz-XXXXXX";
  static const int file = mkstemp(path);
  // Numbers of every size: a field's lowest bits say how many of the others count.
  const auto number = [&fields](int f) { return fields[f] >> 6 >> (fields[f] & 63); };
  if (file < 0 || ftruncate(file, static_cast<off_t>(number(0) % (1 << 20))) != 0) std::abort();
  TableView view{};
  view.parts = 1;
  view.num_rows = number(1);
  view.dim = static_cast<uint32_t>(number(2) % (1 << 17));
  view.format = static_cast<RowFormat>(number(3) % kNumRowFormats);
  SparseEngine engine(*selected_kernels(), static_cast<Residency>(number(4) % 2));
  Failure failure;
  if (!engine.add(view, path, number(5), number(6), number(7), &failure)) {
    if (failure.message.empty()) std::abort();
    return 0;
  }
  const uint32_t segment[5] = {0, 0, 1, 2, 0};
  const uint32_t offsets[3] = {0, 1, 2};
  const int64_t indices[2] = {0, static_cast<int64_t>(view.num_rows - 1)};
  std::vector<float> out(2ull * view.dim);
  PoolRequest request{};
  request.segments = reinterpret_cast<const unsigned char*>(segment), request.segments_bytes = sizeof segment;
  request.index_bytes = 8;
  request.indices = reinterpret_cast<const unsigned char*>(indices), request.indices_bytes = sizeof indices;
  request.offsets = reinterpret_cast<const unsigned char*>(offsets), request.offsets_bytes = sizeof offsets;
  request.out = out.data(), request.out_length = out.size();
  if (engine.pool(request, 1).status != nullptr) std::abort();
  return 0;
}
