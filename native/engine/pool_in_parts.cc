#include "engine/pool_in_parts.h"

#include <algorithm>
#include <thread>

#include "engine/job_clock.h"
#include "engine/thread_pool.h"

namespace terabag {
namespace {

// A part has to be worth the wake-up of a thread, 20 to 55 us; a line takes some 5 to 10 ns.
constexpr uint64_t kMinPartLines = 8192;

uint64_t ids_before(const BagJob& job, uint32_t bag) { return job.offsets[bag] - job.offsets[0]; }

// What the bags before this one take, in cache lines; a bag itself takes about one.
uint64_t lines_before(const BagJob& job, uint32_t bag) {
  const uint64_t lines = (bytes_per_row(job.format, job.dim) + 63) / 64 + (job.keys != nullptr ? 1 : 0);
  return ids_before(job, bag) * lines + bag;
}

// The first bag that has at least this many lines before it.
uint32_t bag_at(const BagJob& job, uint64_t lines) {
  uint32_t low = 0, high = job.num_bags;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (lines_before(job, middle) < lines) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

BagJob bags_of(const BagJob& job, uint32_t from, uint32_t to) {
  BagJob some = job;
  const uint64_t skipped = ids_before(job, from);
  some.indices += skipped * job.index_bytes;
  if (some.weights != nullptr) some.weights += skipped * sizeof(float);
  some.offsets += from;
  some.num_bags = to - from;
  some.out += from * floats_per_bag(job);
  return some;
}

struct Part {
  std::vector<BagJob> jobs;
  std::vector<uint32_t> numbers;  // which job of the request each is of
  uint32_t first_bag = 0;         // where the part starts in its first job
  KernelStatus status = KernelStatus::kOk;
  BadIndex bad{};
  uint64_t helper_cpu_ns = 0;  // of a thread that is not the caller's
};

std::vector<Part> cut(const std::vector<BagJob>& jobs, uint64_t total_lines, uint32_t num_parts) {
  std::vector<Part> parts(num_parts);
  uint64_t before = 0;  // lines of the jobs that are dealt out
  uint32_t part = 0;
  for (uint32_t j = 0; j < jobs.size(); ++j) {
    const uint64_t lines = lines_before(jobs[j], jobs[j].num_bags);
    for (uint32_t from = 0; from < jobs[j].num_bags;) {
      const uint64_t end = total_lines * (part + 1) / num_parts;
      const uint32_t to = part + 1 == num_parts || end >= before + lines ? jobs[j].num_bags : bag_at(jobs[j], end - std::min(end, before));
      if (to > from) {
        if (parts[part].jobs.empty()) parts[part].first_bag = from;
        parts[part].numbers.push_back(j);
        parts[part].jobs.push_back(bags_of(jobs[j], from, to));
        from = to;
      }
      if (from < jobs[j].num_bags) ++part;
    }
    before += lines;
  }
  return parts;
}

}  // namespace

KernelStatus pool_in_parts(const KernelTable& kernels, const std::vector<BagJob>& jobs, unsigned num_threads, BadIndex* bad,
                           uint64_t* helpers_cpu_ns) {
  uint64_t total_lines = 0;
  for (const BagJob& job : jobs) total_lines += lines_before(job, job.num_bags);
  const uint64_t num_parts = std::min<uint64_t>(num_threads, total_lines / kMinPartLines);
  if (num_parts <= 1) return kernels.pool_bags(jobs.data(), static_cast<uint32_t>(jobs.size()), bad);
  std::vector<Part> parts = cut(jobs, total_lines, static_cast<uint32_t>(num_parts));
  const std::thread::id caller = std::this_thread::get_id();
  ThreadPool::shared().parallel(static_cast<uint32_t>(num_parts), [&](uint32_t p) {
    Part& part = parts[p];
    const bool helps = helpers_cpu_ns != nullptr && std::this_thread::get_id() != caller;
    const uint64_t cpu_before = helps ? thread_cpu_ns() : 0;
    part.status = kernels.pool_bags(part.jobs.data(), static_cast<uint32_t>(part.jobs.size()), &part.bad);
    if (helps) part.helper_cpu_ns = thread_cpu_ns() - cpu_before;
  });
  if (helpers_cpu_ns != nullptr) {
    for (const Part& part : parts) *helpers_cpu_ns += part.helper_cpu_ns;
  }
  for (const Part& part : parts) {
    if (part.status == KernelStatus::kOk) continue;
    *bad = part.bad;
    bad->job = part.numbers[part.bad.job];
    if (part.bad.job == 0) {
      bad->bag += part.first_bag;
      bad->position += ids_before(jobs[bad->job], part.first_bag);
    }
    return part.status;
  }
  return KernelStatus::kOk;
}

}  // namespace terabag
