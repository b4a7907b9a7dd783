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
#include "tables/key_index.h"
#include "tables/quantize.h"

namespace terabag {
namespace {
// Steps of filling: long enough to be read in one go, short enough to be stopped and to show progress.
constexpr uint64_t kFillBytes = 32 << 20;

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
    case EPERM: return {"does_not_fit", "tables cannot be kept in memory (" + std::string(std::strerror(failure)) + "): " + where, failure};
    default: return {"unreadable", "table file cannot be read (" + std::string(std::strerror(failure)) + "): " + where, failure};
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
                       Failure* failure) {
  const uint64_t row_bytes = bytes_per_row(view.format, view.dim);
  // 128 bits hold every product of the fields, so that nothing wraps.
  const uint64_t num_rows = view.num_rows + view.fallback_rows;
  const unsigned __int128 last = static_cast<unsigned __int128>(num_rows - 1) * row_step + first_row + 1;
  const unsigned __int128 end = last * row_bytes + byte_offset;
  if (view.num_rows == 0 || num_rows < view.num_rows || view.dim == 0 || row_step == 0 || end > UINT64_MAX) {
    failure->message =
        "table does not lie in its file: " + path + ", rows " + std::to_string(num_rows) + ", dim " + std::to_string(view.dim);
    return false;
  }
  if (num_rows == 1) row_step = 1;  // It may be any number, whose product with the row's bytes wraps.
  const uint64_t from = byte_offset + first_row * row_bytes;
  if (residency_ == Residency::kHugePages) {
    view.row_pitch = row_bytes;
    view.rows = add_copied(path, {nullptr, from, num_rows, row_bytes, row_step * row_bytes}, static_cast<uint64_t>(end), failure);
  } else {
    view.row_pitch = row_step * row_bytes;
    view.rows = add_mapped(path, {from, static_cast<uint64_t>(end)}, failure);
  }
  if (view.rows == nullptr) return false;
  view.rules.assign(1, UnseenRule{});
  view.num_unseen = std::make_shared<uint64_t>(0);
  const auto at =
      std::lower_bound(tables_.begin(), tables_.end(), view, [](const TableView& a, const TableView& b) { return a.key() < b.key(); });
  if (at != tables_.end() && at->key() == view.key()) {
    *at = view;
  } else {
    tables_.insert(at, view);
  }
  return true;
}

bool SparseEngine::set_rules(uint32_t table, uint32_t part, uint32_t parts, const std::vector<TableRule>& rules, Failure* failure) {
  size_t hint = 0;
  const TableView* const found = find(table, part, parts, &hint);
  const auto refuse = [&](const std::string& what) {
    failure->message = "rules of ids of table " + std::to_string(table) + ": " + what;
    return false;
  };
  if (found == nullptr) return refuse("it was not added");
  if (rules.empty()) return refuse("there have to be some");
  TableView& view = tables_[static_cast<size_t>(found - tables_.data())];
  const uint64_t row_bytes = bytes_per_row(view.format, view.dim), num_rows = view.num_rows + view.fallback_rows;
  // Of each rule, of which most need none; zeros of every format are zeros.
  auto rows = std::make_shared<std::vector<unsigned char>>(rules.size() * row_bytes);
  std::vector<UnseenRule> stored;
  for (const TableRule& rule : rules) {
    unsigned char* const row = rows->data() + stored.size() * row_bytes;
    UnseenRule& as = stored.emplace_back(UnseenRule{rule.policy, rule.padding_id.has_value(), rule.padding_id.value_or(0), row, 1});
    if (rule.policy == UnseenPolicy::kHash) {
      const uint64_t first = rule.row.value_or(0);
      if (rule.buckets == 0 || first > num_rows || rule.buckets > num_rows - first)
        return refuse("buckets " + std::to_string(rule.buckets) + " from row " + std::to_string(first) + ", rows " +
                      std::to_string(num_rows));
      as.row = view.rows + first * view.row_pitch;
      as.buckets = rule.buckets;
    }
    if (rule.policy != UnseenPolicy::kRow) continue;
    if (rule.row.has_value()) {
      if (*rule.row >= num_rows) return refuse("row " + std::to_string(*rule.row) + ", rows " + std::to_string(num_rows));
      as.row = view.rows + *rule.row * view.row_pitch;
    } else if (!rule.vector.empty()) {
      if (rule.vector.size() != view.dim)
        return refuse("vector of " + std::to_string(rule.vector.size()) + " values, dim " + std::to_string(view.dim));
      PackError error;
      uint64_t bad_row = 0;
      if (pack_rows(reinterpret_cast<const unsigned char*>(rule.vector.data()), RowFormat::kFp32, 1, view.dim, view.format, row, &error,
                    &bad_row) != PackStatus::kOk)
        return refuse(std::string("the vector cannot be stored as ") + info_of(view.format).name);
    }
  }
  view.rules = std::move(stored);
  view.rule_rows = std::move(rows);
  return true;
}

std::vector<UnseenCount> SparseEngine::unseen() const {
  std::vector<UnseenCount> counts;
  for (const TableView& view : tables_) {
    const uint64_t count = __atomic_load_n(view.num_unseen.get(), __ATOMIC_RELAXED);
    if (count != 0) counts.push_back({view.table, count});
  }
  return counts;
}

bool SparseEngine::add_keyed(TableView view, const std::string& path, uint64_t byte_offset, const KeyIndexFile& keys, Failure* failure) {
  // Sound numbers of buckets are below 2^31, so that their bytes do not wrap.
  const uint64_t bytes = keys.num_buckets * kBucketBytes, end = keys.byte_offset + bytes;
  if (!sound_key_index(keys.num_keys, keys.num_buckets) || end < bytes) {
    failure->message = "key index does not fit its table: " + keys.path + ", rows " + std::to_string(view.num_rows) + ", keys " +
                       std::to_string(keys.num_keys) + ", buckets " + std::to_string(keys.num_buckets);
    return false;
  }
  const unsigned char* const buckets =
      residency_ == Residency::kHugePages
          ? add_copied(keys.path, {nullptr, keys.byte_offset, keys.num_buckets, kBucketBytes, kBucketBytes}, end, failure)
          : add_mapped(keys.path, {keys.byte_offset, end}, failure);
  if (buckets == nullptr) return false;
  view.keys = {buckets, keys.num_buckets, homes_of(keys.num_keys), keys.seed};
  return add(view, path, byte_offset, 0, 1, failure);
}

const unsigned char* SparseEngine::add_mapped(const std::string& path, Extent extent, Failure* failure) {
  TableFile& file = files_[path];
  if (file.mapping == nullptr) {
    file.mapping = MappedFile::open(path, failure);
    if (file.mapping == nullptr) return nullptr;
    if (residency_ != Residency::kMap) file.mapping->prefer_huge_pages();
  }
  if (extent.to > file.mapping->size()) {
    failure->message = too_short(path, extent.to, file.mapping->size());
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

const unsigned char* SparseEngine::add_copied(const std::string& path, const TableCopy& copy, uint64_t end, Failure* failure) {
  CopiedFile& file = copied_files_[path];
  if (file.identity.size == 0) {
    const int opened = FileIdentity::open(path, &file.identity, failure);
    if (opened < 0) return nullptr;
    close(opened);
  }
  if (end > file.identity.size) {
    failure->message = too_short(path, end, file.identity.size);
    return nullptr;
  }
  file.copies.push_back(copy);
  std::shared_ptr<const HugePages>& memory = file.copies.back().memory;
  memory = HugePages::reserve(copy.num_rows * copy.row_bytes, failure);
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
  Failure failed;
  const int opened = FileIdentity::open(file.identity.path, &now, &failed);
  if (opened < 0) return {"unreadable", failed.message, failed.number};
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
    if (failure != 0) return {"unreadable", "table file cannot be dropped from memory: " + path + ", " + std::strerror(failure), failure};
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

}  // namespace terabag
