#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#include "tables/mapped_file.h"

namespace terabag {

struct TableView {
  uint32_t table, part, parts;
  const unsigned char* rows;
  uint64_t num_rows, row_pitch;
  uint32_t dim;
  RowFormat format;
  Prefetch prefetch;
};

struct PoolStatus {
  const char* status = nullptr;  // null when all is well
  uint32_t segment = 0, bag = 0;
  uint64_t position = 0;
  int64_t value = 0;
  uint64_t limit = 0;
};

// A message of bags; nothing of it is trusted. See NativeSparseEngine in src/engine/native.ts for the layout.
struct PoolRequest {
  const unsigned char* segments;
  uint64_t segments_bytes;
  uint32_t index_bytes;
  const unsigned char* indices;
  uint64_t indices_bytes;
  const unsigned char* offsets;
  uint64_t offsets_bytes;
  const unsigned char* weights;
  uint64_t weights_bytes;
  float* out;
  uint64_t out_length;
};

class SparseEngine {
 public:
  explicit SparseEngine(const KernelTable& kernels) : kernels_(kernels) {}
  // Adds rows first_row, first_row + row_step, ... of a file; false, and the reason, when the file is shorter than that.
  bool add(TableView view, const std::string& path, uint64_t byte_offset, uint64_t first_row, uint64_t row_step, std::string* error);
  // Reads the rows of all tables ahead of use, file by file in order. Takes seconds for large tables that are not in the page cache.
  void populate() const;
  // Checks the whole request, then pools all segments in one call of the kernel, so that rows are fetched ahead across tables; one call a
  // thread when the request is worth several. On an error the content of out is unspecified.
  PoolStatus pool(const PoolRequest& request, unsigned num_threads) const;

 private:
  PoolStatus check_and_pool(const PoolRequest& request, unsigned num_threads) const;
  // The table of a segment, or null. Requests mostly name tables in order: *hint is looked at first and then set behind the one found.
  const TableView* find(uint32_t table, uint32_t part, uint32_t parts, size_t* hint) const;

  const KernelTable& kernels_;
  struct Extent {
    std::shared_ptr<const MappedFile> file;
    uint64_t from, to;
  };

  std::map<std::string, std::shared_ptr<MappedFile>> files_;
  std::vector<Extent> extents_;
  std::vector<TableView> tables_;  // in the order of (table, part, parts)
};

}  // namespace terabag
