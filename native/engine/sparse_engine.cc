#include "engine/sparse_engine.h"

#include <vector>

#include "kernels/row_values.h"

namespace terabag {
namespace {
constexpr uint32_t kSegmentFields = 5;
constexpr uint32_t kMean = 1, kWeighted = 2;
}  // namespace

bool SparseEngine::add(TableView view, const std::string& path, uint64_t byte_offset, uint64_t first_row, uint64_t row_step,
                       std::string* error) {
  std::shared_ptr<MappedFile>& file = files_[path];
  if (file == nullptr) file = MappedFile::open(path, error);
  if (file == nullptr) return false;
  const uint64_t row_bytes = static_cast<uint64_t>(view.dim) * (view.format == RowFormat::kFp32 ? 4 : 2);
  // 128 bits hold every product of the fields, so that nothing wraps.
  const unsigned __int128 last = static_cast<unsigned __int128>(view.num_rows - 1) * row_step + first_row + 1;
  const unsigned __int128 end = last * row_bytes + byte_offset;
  if (view.num_rows == 0 || view.dim == 0 || row_step == 0 || end > file->size()) {
    *error = "table does not lie in its file: " + path + ", rows " + std::to_string(view.num_rows) + ", dim " + std::to_string(view.dim) +
             ", offset " + std::to_string(byte_offset) + ", file bytes " + std::to_string(file->size());
    return false;
  }
  file->populate(byte_offset + first_row * row_bytes, static_cast<uint64_t>(end));
  view.rows = file->data() + byte_offset + first_row * row_bytes;
  view.row_pitch = row_step * row_bytes;
  tables_[{view.table, view.part, view.parts}] = view;
  return true;
}

PoolStatus SparseEngine::pool(const PoolRequest& request) const {
  PoolStatus bad;
  const auto fail = [&bad](const char* status, int64_t value, uint64_t limit) {
    bad.status = status;
    bad.value = value;
    bad.limit = limit;
    return bad;
  };
  const uint64_t num_indices = request.indices_bytes / request.index_bytes;
  const uint64_t num_offsets = request.offsets_bytes / 4;
  if (request.indices_bytes % request.index_bytes != 0) return fail("bad_segments", request.indices_bytes, request.index_bytes);
  if (request.segments_bytes % (kSegmentFields * 4) != 0) return fail("bad_segments", request.segments_bytes, kSegmentFields * 4);
  if (request.offsets_bytes % 4 != 0 || num_offsets == 0) return fail("bad_offsets", request.offsets_bytes, 4);
  if (load<uint32_t>(request.offsets) != 0) return fail("bad_offsets", load<uint32_t>(request.offsets), 0);
  if (load<uint32_t>(request.offsets + (num_offsets - 1) * 4) != num_indices) {
    return fail("bad_offsets", load<uint32_t>(request.offsets + (num_offsets - 1) * 4), num_indices);
  }
  // Copied before they are checked: the caller's buffer may change while a thread pools.
  const std::vector<unsigned char> checked_offsets(request.offsets, request.offsets + request.offsets_bytes);
  if (load<uint32_t>(checked_offsets.data() + (num_offsets - 1) * 4) != num_indices) return fail("bad_offsets", 0, num_indices);
  const uint64_t num_segments = request.segments_bytes / (kSegmentFields * 4);
  uint64_t at_bag = 0, at_weight = 0, at_out = 0;
  for (uint64_t s = 0; s < num_segments; ++s) {
    const unsigned char* segment = request.segments + s * kSegmentFields * 4;
    uint32_t fields[kSegmentFields];
    for (uint32_t f = 0; f < kSegmentFields; ++f) fields[f] = load<uint32_t>(segment + f * 4);
    const auto [table, part, parts, num_bags, flags] = fields;
    bad.segment = static_cast<uint32_t>(s);
    const auto found = tables_.find({table, part, parts});
    if (found == tables_.end() || (flags & ~(kMean | kWeighted)) != 0) return fail("bad_segments", table, part);
    if (num_bags > num_offsets - 1 - at_bag) return fail("bad_segments", num_bags, num_offsets - 1 - at_bag);
    const TableView& view = found->second;
    if (static_cast<uint64_t>(num_bags) * view.dim > request.out_length - at_out) return fail("bad_output", num_bags, request.out_length);

    const unsigned char* offsets = checked_offsets.data() + at_bag * 4;
    uint32_t previous = load<uint32_t>(offsets);
    const uint32_t first = previous;
    for (uint32_t b = 1; b <= num_bags; ++b) {
      const uint32_t offset = load<uint32_t>(offsets + b * 4ull);
      if (offset < previous || offset > num_indices) {
        bad.bag = b - 1;
        return fail("bad_offsets", offset, num_indices);
      }
      previous = offset;
    }
    const bool weighted = (flags & kWeighted) != 0;
    const uint64_t used = previous - first;
    if (weighted && used > request.weights_bytes / 4 - at_weight) return fail("bad_weights", used, request.weights_bytes / 4);

    BagJob job;
    job.rows = view.rows;
    job.num_rows = view.num_rows;
    job.row_pitch = view.row_pitch;
    job.dim = view.dim;
    job.format = view.format;
    job.indices = request.indices;
    job.index_bytes = request.index_bytes;
    // Weights are numbered from the first index of their segment. Addresses are formed as integers: this one may lie before the buffer.
    job.weights =
        weighted ? reinterpret_cast<const unsigned char*>(reinterpret_cast<uintptr_t>(request.weights) + (at_weight - first) * 4) : nullptr;
    job.offsets = offsets;
    job.num_bags = num_bags;
    job.mean = (flags & kMean) != 0;
    job.out = request.out + at_out;
    uint32_t bad_bag = 0;
    const int64_t position = num_bags == 0 ? -1 : kernels_.pool_bags(job, &bad_bag);
    if (position >= 0) {
      bad.bag = bad_bag;
      bad.position = static_cast<uint64_t>(position) - first;
      return fail("index_out_of_range", load_index(job, static_cast<uint64_t>(position)), view.num_rows);
    }
    at_bag += num_bags;
    at_weight += weighted ? used : 0;
    at_out += static_cast<uint64_t>(num_bags) * view.dim;
  }
  if (at_bag != num_offsets - 1) return fail("bad_segments", at_bag, num_offsets - 1);
  if (at_weight != request.weights_bytes / 4 || request.weights_bytes % 4 != 0)
    return fail("bad_weights", at_weight, request.weights_bytes / 4);
  if (at_out != request.out_length) return fail("bad_output", at_out, request.out_length);
  return PoolStatus{};
}

}  // namespace terabag
