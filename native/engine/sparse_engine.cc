#include "engine/sparse_engine.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <tuple>
#include <vector>

#include "engine/job_clock.h"
#include "engine/pool_in_parts.h"
#include "kernels/row_values.h"

namespace terabag {
namespace {
constexpr uint32_t kMean = 1, kWeighted = 2;

// Steps of filling: long enough to be read in one go, short enough to be stopped and to show progress.
constexpr uint64_t kFillBytes = 32 << 20;

std::tuple<uint32_t, uint32_t, uint32_t> key(const TableView& view) { return {view.table, view.part, view.parts}; }

std::string too_short(const std::string& path, uint64_t end, uint64_t size) {
  return "table does not lie in its file: " + path + ", ends at byte " + std::to_string(end) + ", file bytes " + std::to_string(size);
}

FillStatus closed_meanwhile() { return {"closed", "the tables were closed while they were read"}; }

FillStatus fill_error(int failure, const std::string& path, uint64_t from, uint64_t to) {
  const std::string where = path + ", bytes " + std::to_string(from) + " to " + std::to_string(to);
  switch (failure) {
    case EFAULT: return {"unreadable", "table file cannot be read or was shortened meanwhile: " + where};
    case ENOMEM:
    case EAGAIN:
    case EPERM: return {"does_not_fit", "tables cannot be kept in memory (" + std::string(std::strerror(failure)) + "): " + where};
    default: return {"unreadable", "table file cannot be read (" + std::string(std::strerror(failure)) + "): " + where};
  }
}

// 0, or an errno: EFAULT when the file ends before.
int read_exactly(int file, unsigned char* to, uint64_t from, uint64_t length) {
  while (length > 0) {
    const ssize_t got = pread(file, to, length, static_cast<off_t>(from));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got == 0 ? EFAULT : errno;
    to += got;
    from += static_cast<uint64_t>(got);
    length -= static_cast<uint64_t>(got);
  }
  return 0;
}
}  // namespace

bool SparseEngine::add(TableView view, const std::string& path, uint64_t byte_offset, uint64_t first_row, uint64_t row_step,
                       std::string* error) {
  const uint64_t row_bytes = bytes_per_row(view.format, view.dim);
  // 128 bits hold every product of the fields, so that nothing wraps.
  const unsigned __int128 last = static_cast<unsigned __int128>(view.num_rows - 1) * row_step + first_row + 1;
  const unsigned __int128 end = last * row_bytes + byte_offset;
  if (view.num_rows == 0 || view.dim == 0 || row_step == 0 || end > UINT64_MAX) {
    *error = "table does not lie in its file: " + path + ", rows " + std::to_string(view.num_rows) + ", dim " + std::to_string(view.dim);
    return false;
  }
  if (view.num_rows == 1) row_step = 1;  // It may be any number, whose product with the row's bytes wraps.
  const uint64_t from = byte_offset + first_row * row_bytes;
  if (residency_ == Residency::kHugePages) {
    view.row_pitch = row_bytes;
    view.rows = add_copied(path, {nullptr, from, view.num_rows, row_bytes, row_step * row_bytes}, static_cast<uint64_t>(end), error);
  } else {
    view.row_pitch = row_step * row_bytes;
    view.rows = add_mapped(path, {from, static_cast<uint64_t>(end)}, error);
  }
  if (view.rows == nullptr) return false;
  const auto at =
      std::lower_bound(tables_.begin(), tables_.end(), view, [](const TableView& a, const TableView& b) { return key(a) < key(b); });
  if (at != tables_.end() && key(*at) == key(view)) {
    *at = view;
  } else {
    tables_.insert(at, view);
  }
  return true;
}

const unsigned char* SparseEngine::add_mapped(const std::string& path, Extent extent, std::string* error) {
  TableFile& file = files_[path];
  if (file.mapping == nullptr) {
    file.mapping = MappedFile::open(path, error);
    if (file.mapping == nullptr) return nullptr;
    if (residency_ != Residency::kMap) file.mapping->prefer_huge_pages();
  }
  if (extent.to > file.mapping->size()) {
    *error = too_short(path, extent.to, file.mapping->size());
    return nullptr;
  }
  const unsigned char* rows = file.mapping->data() + extent.from;
  // Merges what overlaps or touches: parts of one table lie between each other.
  std::vector<Extent> apart;
  for (const Extent& other : file.extents) {
    if (other.to < extent.from || extent.to < other.from) {
      apart.push_back(other);
    } else {
      extent = {std::min(extent.from, other.from), std::max(extent.to, other.to)};
    }
  }
  apart.insert(std::upper_bound(apart.begin(), apart.end(), extent, [](const Extent& a, const Extent& b) { return a.from < b.from; }),
               extent);
  file.extents = std::move(apart);
  return rows;
}

const unsigned char* SparseEngine::add_copied(const std::string& path, const TableCopy& copy, uint64_t end, std::string* error) {
  CopiedFile& file = copied_files_[path];
  if (file.identity.size == 0) {
    const int opened = FileIdentity::open(path, &file.identity, error);
    if (opened < 0) return nullptr;
    close(opened);
  }
  if (end > file.identity.size) {
    *error = too_short(path, end, file.identity.size);
    return nullptr;
  }
  file.copies.push_back(copy);
  std::shared_ptr<const HugePages>& memory = file.copies.back().memory;
  memory = HugePages::reserve(copy.num_rows * copy.row_bytes, error);
  return memory == nullptr ? nullptr : memory->data();
}

FillStatus SparseEngine::fill(FillProgress* progress) const {
  try {
    FillStatus status;
    for (auto file = files_.begin(); residency_ != Residency::kMap && file != files_.end() && status.status == nullptr; ++file) {
      status = fill_mapped(file->second, progress);
    }
    for (auto file = copied_files_.begin(); file != copied_files_.end() && status.status == nullptr; ++file) {
      status = fill_copied(file->second, progress);
    }
    return status;
  } catch (const std::bad_alloc&) {
    return {"does_not_fit", "memory ran out while tables were read"};
  }
}

SparseEngine::Extent SparseEngine::locked(const Extent& extent, uint64_t file_size) {
  return {extent.from / kHugePage * kHugePage, std::min((extent.to + kHugePage - 1) / kHugePage * kHugePage, file_size)};
}

FillStatus SparseEngine::fill_mapped(const TableFile& file, FillProgress* progress) const {
  const bool lock = residency_ == Residency::kLock;
  for (const Extent& rows : file.extents) {
    const Extent extent = lock ? locked(rows, file.mapping->size()) : rows;
    for (uint64_t from = extent.from, to = 0; from < extent.to; from = to) {
      if (progress->stop) return closed_meanwhile();
      to = std::min((from / kFillBytes + 1) * kFillBytes, extent.to);
      const int failure = lock ? file.mapping->lock(from, to) : file.mapping->populate(from, to);
      if (failure != 0) return fill_error(failure, file.mapping->path(), from, to);
      progress->bytes += std::min(to, rows.to) - std::min(std::max(from, rows.from), std::min(to, rows.to));
    }
  }
  return {};
}

FillStatus SparseEngine::fill_copied(const CopiedFile& file, FillProgress* progress) const {
  FileIdentity now;
  FillStatus status;
  const int opened = FileIdentity::open(file.identity.path, &now, &status.message);
  if (opened < 0) return {"unreadable", status.message};
  const std::unique_ptr<const int, void (*)(const int*)> closing(&opened, [](const int* descriptor) { close(*descriptor); });
  if (now.device != file.identity.device || now.inode != file.identity.inode) {
    return {"unreadable", "table file was replaced while it was opened: " + now.path};
  }
  std::vector<unsigned char> block;
  for (const TableCopy& copy : file.copies) {
    const bool dense = copy.row_pitch == copy.row_bytes;
    const uint64_t rows_at_once = std::max<uint64_t>(1, kFillBytes / copy.row_pitch);
    for (uint64_t row = 0; row < copy.num_rows; row += rows_at_once) {
      if (progress->stop) return closed_meanwhile();
      const uint64_t rows = std::min(rows_at_once, copy.num_rows - row);
      const uint64_t from = copy.byte_offset + row * copy.row_pitch;
      const uint64_t length = (rows - 1) * copy.row_pitch + copy.row_bytes;
      unsigned char* const destination = copy.memory->data() + row * copy.row_bytes;
      if (!dense) block.resize(length);
      const int failure = read_exactly(opened, dense ? destination : block.data(), from, length);
      if (failure != 0) return fill_error(failure, now.path, from, from + length);
      for (uint64_t r = 0; !dense && r < rows; ++r) {
        std::memcpy(destination + r * copy.row_bytes, block.data() + r * copy.row_pitch, copy.row_bytes);
      }
      progress->bytes += rows * copy.row_bytes;
    }
    copy.memory->seal();
  }
  return {};
}

uint64_t SparseEngine::table_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [path, file] : files_) {
    for (const Extent& extent : file.extents) bytes += extent.to - extent.from;
  }
  for (const auto& [path, file] : copied_files_) {
    for (const TableCopy& copy : file.copies) bytes += copy.num_rows * copy.row_bytes;
  }
  return bytes;
}

uint64_t SparseEngine::kept_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [path, file] : files_) {
    uint64_t before = 0;
    for (const Extent& rows : file.extents) {
      if (residency_ != Residency::kLock) continue;
      const Extent extent = locked(rows, file.mapping->size());
      bytes += extent.to - std::max(before, extent.from);
      before = extent.to;
    }
  }
  for (const auto& [path, file] : copied_files_) {
    for (const TableCopy& copy : file.copies) bytes += copy.memory->size();
  }
  return bytes;
}

std::vector<FileResidency> SparseEngine::residency(bool map_cached) const {
  std::vector<FileResidency> files;
  std::vector<std::vector<AddressRange>> ranges;
  for (const auto& [path, file] : files_) {
    FileResidency& found = files.emplace_back();
    found.path = path;
    found.resident_known = tells_what_is_cached(path);
    const uint64_t base = reinterpret_cast<uint64_t>(file.mapping->data()), size = file.mapping->size();
    for (const Extent& extent : file.extents) {
      found.bytes += extent.to - extent.from;
      found.resident_bytes += resident_bytes({base + extent.from, base + extent.to});
      for (uint64_t at = extent.from / kHugePage * kHugePage; map_cached && found.resident_known && at < extent.to; at += kHugePage) {
        const uint64_t to = std::min(at + kHugePage, size);
        if (resident_bytes({base + at, base + to}) == to - at) file.mapping->populate(at, to);
      }
    }
    ranges.push_back({{base, base + size}});
  }
  for (const auto& [path, file] : copied_files_) {
    FileResidency& found = files.emplace_back();
    found.path = path;
    found.resident_known = true;
    ranges.emplace_back();
    for (const TableCopy& copy : file.copies) {
      const uint64_t base = reinterpret_cast<uint64_t>(copy.memory->data()), bytes = copy.num_rows * copy.row_bytes;
      found.bytes += bytes;
      found.resident_bytes += resident_bytes({base, base + bytes});
      ranges.back().push_back({base, base + bytes});
    }
  }
  std::vector<std::string> entries = smaps_entries(ranges);
  for (size_t f = 0; f < files.size(); ++f) files[f].smaps = std::move(entries[f]);
  return files;
}

FillStatus SparseEngine::drop_cached(const std::vector<std::string>& paths) const {
  for (const std::string& path : paths) {
    const auto file = files_.find(path);
    const int failure = file == files_.end() ? 0 : file->second.mapping->drop();
    if (failure != 0) return {"unreadable", "table file cannot be dropped from memory: " + path + ", " + std::strerror(failure)};
  }
  return {};
}

std::vector<TunedRows> SparseEngine::tune_prefetch() const {
  std::map<uint64_t, const TableView*> largest;
  for (const TableView& view : tables_) {
    const TableView*& found = largest[bytes_per_row(view.format, view.dim)];
    if (found == nullptr || view.num_rows > found->num_rows) found = &view;
  }
  std::vector<TunedRows> all;
  for (const auto& [row_bytes, view] : largest) {
    if (view->num_rows * row_bytes < kMinTunedBytes) continue;
    BagJob table{};
    table.rows = view->rows;
    table.num_rows = view->num_rows;
    table.row_pitch = view->row_pitch;
    table.dim = view->dim;
    table.format = view->format;
    all.push_back({row_bytes, terabag::tune_prefetch(kernels_, table)});
  }
  for (const TableView& view : tables_) {
    for (const TunedRows& rows : all) {
      if (bytes_per_row(view.format, view.dim) == rows.row_bytes) view.prefetch.set(rows.tuned.prefetch);
    }
  }
  return all;
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

PoolStatus SparseEngine::pool(const PoolRequest& request, unsigned num_threads, uint64_t* cpu_ns) const {
  try {
    if (cpu_ns == nullptr) return check_and_pool(request, num_threads, nullptr);
    const uint64_t cpu_before = thread_cpu_ns();
    uint64_t helpers_cpu_ns = 0;
    const PoolStatus status = check_and_pool(request, num_threads, &helpers_cpu_ns);
    *cpu_ns = thread_cpu_ns() - cpu_before + helpers_cpu_ns;
    return status;
  } catch (const std::bad_alloc&) {
    // On an addon thread nobody would catch it, and a message may be as long as memory is short.
    PoolStatus bad;
    bad.status = "out_of_memory";
    bad.value = static_cast<int64_t>(request.segments_bytes + request.offsets_bytes);
    return bad;
  }
}

std::optional<uint64_t> SparseEngine::output_length(const unsigned char* segments, uint64_t segments_bytes, uint64_t offsets_bytes) const {
  if (segments_bytes % kSegmentBytes != 0) return std::nullopt;
  uint64_t bags = 0, length = 0;
  size_t hint = 0;
  for (const unsigned char* segment = segments; segment < segments + segments_bytes; segment += kSegmentBytes) {
    const TableView* view = find(load<uint32_t>(segment), load<uint32_t>(segment + 4), load<uint32_t>(segment + 8), &hint);
    if (view == nullptr) return std::nullopt;
    const uint64_t num_bags = load<uint32_t>(segment + 12);
    bags += num_bags;
    length += num_bags * view->dim;
  }
  return offsets_bytes == (bags + 1) * 4 ? std::optional(length) : std::nullopt;
}

PoolStatus SparseEngine::check_and_pool(const PoolRequest& request, unsigned num_threads, uint64_t* helpers_cpu_ns) const {
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
  if (request.segments_bytes % kSegmentBytes != 0) return fail("bad_segments", request.segments_bytes, kSegmentBytes);
  if (request.offsets_bytes % 4 != 0 || num_offsets == 0) return fail("bad_offsets", request.offsets_bytes, 4);
  if (load<uint32_t>(request.offsets) != 0) return fail("bad_offsets", load<uint32_t>(request.offsets), 0);
  if (load<uint32_t>(request.offsets + (num_offsets - 1) * 4) != num_indices) {
    return fail("bad_offsets", load<uint32_t>(request.offsets + (num_offsets - 1) * 4), num_indices);
  }
  // Copied before they are checked: the caller's buffer may change while a thread pools.
  std::vector<uint32_t> offsets(num_offsets);
  std::memcpy(offsets.data(), request.offsets, request.offsets_bytes);
  if (offsets.back() != num_indices) return fail("bad_offsets", offsets.back(), num_indices);
  const uint64_t num_segments = request.segments_bytes / kSegmentBytes;
  std::vector<BagJob> jobs(num_segments);
  uint64_t at_bag = 0, at_weight = 0, at_out = 0;
  size_t hint = 0;
  for (uint64_t s = 0; s < num_segments; ++s) {
    const unsigned char* segment = request.segments + s * kSegmentBytes;
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
    job.prefetch = view->prefetch.get();
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
  if (pool_in_parts(kernels_, jobs, num_threads, &found, helpers_cpu_ns) == KernelStatus::kOk) return PoolStatus{};
  bad.segment = found.job;
  bad.bag = found.bag;
  bad.position = found.position;
  return fail("index_out_of_range", found.value, jobs[found.job].num_rows);
}

}  // namespace terabag
