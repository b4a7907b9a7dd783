#include "engine/sparse_engine.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <tuple>
#include <vector>

#include "engine/pool_in_parts.h"
#include "kernels/row_values.h"

namespace terabag {
namespace {
constexpr uint32_t kSegmentFields = 5;
constexpr uint32_t kMean = 1, kWeighted = 2;

std::tuple<uint32_t, uint32_t, uint32_t> key(const TableView& view) { return {view.table, view.part, view.parts}; }
}  // namespace

bool SparseEngine::add(TableView view, const std::string& path, uint64_t byte_offset, uint64_t first_row, uint64_t row_step,
                       std::string* error) {
  std::shared_ptr<MappedFile>& file = files_[path];
  if (file == nullptr) file = MappedFile::open(path, error);
  if (file == nullptr) return false;
  const uint64_t row_bytes = bytes_per_row(view.format, view.dim);
  // 128 bits hold every product of the fields, so that nothing wraps.
  const unsigned __int128 last = static_cast<unsigned __int128>(view.num_rows - 1) * row_step + first_row + 1;
  const unsigned __int128 end = last * row_bytes + byte_offset;
  if (view.num_rows == 0 || view.dim == 0 || row_step == 0 || end > file->size()) {
    *error = "table does not lie in its file: " + path + ", rows " + std::to_string(view.num_rows) + ", dim " + std::to_string(view.dim) +
             ", offset " + std::to_string(byte_offset) + ", file bytes " + std::to_string(file->size());
    return false;
  }
  extents_.push_back({file, byte_offset + first_row * row_bytes, static_cast<uint64_t>(end)});
  view.rows = file->data() + byte_offset + first_row * row_bytes;
  view.row_pitch = row_step * row_bytes;
  const auto at =
      std::lower_bound(tables_.begin(), tables_.end(), view, [](const TableView& a, const TableView& b) { return key(a) < key(b); });
  if (at != tables_.end() && key(*at) == key(view)) {
    *at = view;
  } else {
    tables_.insert(at, view);
  }
  return true;
}

void SparseEngine::populate() const {
  for (const Extent& extent : extents_) extent.file->populate(extent.from, extent.to);
}

const TableView* SparseEngine::find(uint32_t table, uint32_t part, uint32_t parts, size_t* hint) const {
  size_t at = *hint;
  if (at >= tables_.size() || tables_[at].table != table || tables_[at].part != part || tables_[at].parts != parts) {
    const std::tuple<uint32_t, uint32_t, uint32_t> wanted{table, part, parts};
    at = static_cast<size_t>(
        std::lower_bound(tables_.begin(), tables_.end(), wanted, [](const TableView& a, const auto& b) { return key(a) < b; }) -
        tables_.begin());
    if (at == tables_.size() || key(tables_[at]) != wanted) return nullptr;
  }
  *hint = at + 1;
  return &tables_[at];
}

PoolStatus SparseEngine::pool(const PoolRequest& request, unsigned num_threads) const {
  try {
    return check_and_pool(request, num_threads);
  } catch (const std::bad_alloc&) {
    // On an addon thread nobody would catch it, and a message may be as long as memory is short.
    PoolStatus bad;
    bad.status = "out_of_memory";
    bad.value = static_cast<int64_t>(request.segments_bytes + request.offsets_bytes);
    return bad;
  }
}

PoolStatus SparseEngine::check_and_pool(const PoolRequest& request, unsigned num_threads) const {
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
  std::vector<uint32_t> offsets(num_offsets);
  std::memcpy(offsets.data(), request.offsets, request.offsets_bytes);
  if (offsets.back() != num_indices) return fail("bad_offsets", offsets.back(), num_indices);
  const uint64_t num_segments = request.segments_bytes / (kSegmentFields * 4);
  std::vector<BagJob> jobs(num_segments);
  uint64_t at_bag = 0, at_weight = 0, at_out = 0;
  size_t hint = 0;
  for (uint64_t s = 0; s < num_segments; ++s) {
    const unsigned char* segment = request.segments + s * kSegmentFields * 4;
    uint32_t fields[kSegmentFields];
    for (uint32_t f = 0; f < kSegmentFields; ++f) fields[f] = load<uint32_t>(segment + f * 4);
    const auto [table, part, parts, num_bags, flags] = fields;
    bad.segment = static_cast<uint32_t>(s);
    const TableView* view = find(table, part, parts, &hint);
    if (view == nullptr || (flags & ~(kMean | kWeighted)) != 0) return fail("bad_segments", table, part);
    if (num_bags > num_offsets - 1 - at_bag) return fail("bad_segments", num_bags, num_offsets - 1 - at_bag);
    if (static_cast<uint64_t>(num_bags) * view->dim > request.out_length - at_out) return fail("bad_output", num_bags, request.out_length);

    const uint32_t* segment_offsets = offsets.data() + at_bag;
    for (uint32_t b = 0; b < num_bags; ++b) {
      if (segment_offsets[b + 1] < segment_offsets[b] || segment_offsets[b + 1] > num_indices) {
        bad.bag = b;
        return fail("bad_offsets", segment_offsets[b + 1], num_indices);
      }
    }
    const bool weighted = (flags & kWeighted) != 0;
    const uint64_t used = segment_offsets[num_bags] - segment_offsets[0];
    if (weighted && used > request.weights_bytes / 4 - at_weight) return fail("bad_weights", used, request.weights_bytes / 4);

    BagJob& job = jobs[s];
    job.rows = view->rows;
    job.num_rows = view->num_rows;
    job.row_pitch = view->row_pitch;
    job.dim = view->dim;
    job.format = view->format;
    job.indices = request.indices + static_cast<uint64_t>(segment_offsets[0]) * request.index_bytes;
    job.index_bytes = request.index_bytes;
    job.weights = weighted && used > 0 ? request.weights + at_weight * 4 : nullptr;
    job.offsets = segment_offsets;
    job.num_bags = num_bags;
    job.mean = (flags & kMean) != 0;
    job.prefetch = view->prefetch;
    job.out = request.out + at_out;
    at_bag += num_bags;
    at_weight += weighted ? used : 0;
    at_out += static_cast<uint64_t>(num_bags) * view->dim;
  }
  if (at_bag != num_offsets - 1) return fail("bad_segments", at_bag, num_offsets - 1);
  if (at_weight != request.weights_bytes / 4 || request.weights_bytes % 4 != 0)
    return fail("bad_weights", at_weight, request.weights_bytes / 4);
  if (at_out != request.out_length) return fail("bad_output", at_out, request.out_length);
  BadIndex found;
  if (pool_in_parts(kernels_, jobs, num_threads, &found) == KernelStatus::kOk) return PoolStatus{};
  bad.segment = found.job;
  bad.bag = found.bag;
  bad.position = found.position;
  return fail("index_out_of_range", found.value, jobs[found.job].num_rows);
}

}  // namespace terabag
