#include <algorithm>
#include <cstring>
#include <new>
#include <tuple>
#include <vector>

#include "engine/job_clock.h"
#include "engine/pool_in_parts.h"
#include "engine/sparse_engine.h"
#include "kernels/bag_reads.h"

namespace terabag {
namespace {
const PoolingInfo* pooling_of(uint32_t flags) {
  for (const PoolingInfo& info : kPoolings) {
    if (info.flag == (flags & ((1u << kRuleShift) - 1) & ~(kWeighted | kDivisor))) return &info;
  }
  return nullptr;
}

uint64_t floats_per_bag(const TableView& view, uint32_t flags) {
  return static_cast<uint64_t>(view.dim) + ((flags & kDivisor) != 0 ? 1 : 0);
}
}  // namespace

const TableView* SparseEngine::find(uint32_t table, uint32_t part, uint32_t parts, size_t* hint) const {
  size_t at = *hint;
  if (at >= tables_.size() || tables_[at].table != table || tables_[at].part != part || tables_[at].parts != parts) {
    const std::tuple<uint32_t, uint32_t, uint32_t> wanted{table, part, parts};
    at = static_cast<size_t>(
        std::lower_bound(tables_.begin(), tables_.end(), wanted, [](const TableView& a, const auto& b) { return a.key() < b; }) -
        tables_.begin());
    if (at == tables_.size() || tables_[at].key() != wanted) return nullptr;
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
    length += num_bags * floats_per_bag(*view, load<uint32_t>(segment + 16));
  }
  return offsets_bytes == (bags + 1) * 4 ? std::optional(length) : std::nullopt;
}

PoolStatus SparseEngine::check(const PoolRequest& request, std::vector<uint32_t>* copied_offsets, std::vector<BagJob>* checked_jobs) const {
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
  std::vector<uint32_t>& offsets = *copied_offsets;
  offsets.resize(num_offsets);
  std::memcpy(offsets.data(), request.offsets, request.offsets_bytes);
  if (offsets.back() != num_indices) return fail("bad_offsets", offsets.back(), num_indices);
  const uint64_t num_segments = request.segments_bytes / kSegmentBytes;
  std::vector<BagJob>& jobs = *checked_jobs;
  jobs.resize(num_segments);
  uint64_t at_bag = 0, at_weight = 0, at_out = 0;
  size_t hint = 0;
  for (uint64_t s = 0; s < num_segments; ++s) {
    const unsigned char* segment = request.segments + s * kSegmentBytes;
    uint32_t fields[kSegmentFields];
    for (uint32_t f = 0; f < kSegmentFields; ++f) fields[f] = load<uint32_t>(segment + f * 4);
    const auto [table, part, parts, num_bags, flags] = fields;
    bad.segment = static_cast<uint32_t>(s);
    const TableView* view = find(table, part, parts, &hint);
    const PoolingInfo* pooling = pooling_of(flags);
    if (view == nullptr || pooling == nullptr) return fail("bad_segments", table, part);
    const uint32_t rule = flags >> kRuleShift;
    if (rule >= view->rules.size()) return fail("bad_segments", rule, view->rules.size());
    if (num_bags > num_offsets - 1 - at_bag) return fail("bad_segments", num_bags, num_offsets - 1 - at_bag);
    const uint64_t out_floats = num_bags * floats_per_bag(*view, flags);
    if (out_floats > request.out_length - at_out) return fail("bad_output", num_bags, request.out_length);

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
    job.keys = view->keys.buckets == nullptr ? nullptr : &view->keys;
    job.dim = view->dim;
    job.format = view->format;
    job.indices = request.indices + static_cast<uint64_t>(segment_offsets[0]) * request.index_bytes;
    job.index_bytes = request.index_bytes;
    job.weights = weighted && used > 0 ? request.weights + at_weight * 4 : nullptr;
    job.offsets = segment_offsets;
    job.num_bags = num_bags;
    job.pooling = pooling->pooling;
    job.divisor = (flags & kDivisor) != 0;
    job.prefetch = view->prefetch.get();
    job.unseen = view->rules[rule];
    job.num_unseen = view->num_unseen.get();
    job.out = request.out + at_out;
    at_bag += num_bags;
    at_weight += weighted ? used : 0;
    at_out += out_floats;
  }
  if (at_bag != num_offsets - 1) return fail("bad_segments", at_bag, num_offsets - 1);
  if (at_weight != request.weights_bytes / 4 || request.weights_bytes % 4 != 0)
    return fail("bad_weights", at_weight, request.weights_bytes / 4);
  if (at_out != request.out_length) return fail("bad_output", at_out, request.out_length);
  return {};
}

PoolStatus SparseEngine::check_and_pool(const PoolRequest& request, unsigned num_threads, uint64_t* helpers_cpu_ns) const {
  std::vector<uint32_t> offsets;
  std::vector<BagJob> jobs;
  PoolStatus status = check(request, &offsets, &jobs);
  if (status.status != nullptr) return status;
  BadIndex found;
  if (pool_in_parts(kernels_, jobs, num_threads, &found, helpers_cpu_ns) == KernelStatus::kOk) return status;
  status.status = "index_out_of_range";
  status.segment = found.job;
  status.bag = found.bag;
  status.position = found.position;
  status.value = found.value;
  status.limit = jobs[found.job].num_rows;
  return status;
}

}  // namespace terabag
