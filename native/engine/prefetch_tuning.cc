#include "engine/prefetch_tuning.h"

#include <algorithm>
#include <chrono>
#include <random>

namespace terabag {
namespace {

// The default first.
constexpr Prefetch kCandidates[] = {{}, {32, false}, {64, false}, {128, false}, {192, false}, {64, true}, {192, true}, {256, true}};
constexpr uint32_t kNumCandidates = sizeof kCandidates / sizeof kCandidates[0];
constexpr uint32_t kRounds = 9;
constexpr uint32_t kBags = 256, kPoolingFactor = 32;
// What another distance has to win to be taken over the default: less is noise.
constexpr double kWorthwhile = 0.95;

double median(std::vector<double> samples) {
  std::nth_element(samples.begin(), samples.begin() + samples.size() / 2, samples.end());
  return samples[samples.size() / 2];
}

}  // namespace

TunedPrefetch tune_prefetch(const KernelTable& kernels, const BagJob& table) {
  std::mt19937_64 random(table.num_rows);
  std::vector<int64_t> indices(kBags * kPoolingFactor);
  std::vector<uint32_t> offsets(kBags + 1);
  for (uint32_t bag = 0; bag <= kBags; ++bag) offsets[bag] = bag * kPoolingFactor;
  std::vector<float> out(static_cast<uint64_t>(kBags) * table.dim);
  BagJob job = table;
  job.indices = reinterpret_cast<const unsigned char*>(indices.data());
  job.index_bytes = sizeof(int64_t);
  job.weights = nullptr;
  job.offsets = offsets.data();
  job.num_bags = kBags;
  job.pooling = Pooling::kSum;
  job.out = out.data();
  std::vector<double> ns[kNumCandidates];
  for (uint32_t round = 0; round < kRounds; ++round) {
    for (uint32_t candidate = 0; candidate < kNumCandidates; ++candidate) {
      // New ids every time: the rows of the last ones are in the caches.
      for (int64_t& index : indices) index = static_cast<int64_t>(random() % table.num_rows);
      job.prefetch = kCandidates[candidate];
      BadIndex bad;
      const auto started_at = std::chrono::steady_clock::now();
      kernels.pool_bags(&job, 1, &bad);
      const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - started_at;
      ns[candidate].push_back(took.count() / static_cast<double>(indices.size()));
    }
  }
  const double of_default = median(ns[0]);
  TunedPrefetch best{kCandidates[0], of_default};
  for (uint32_t candidate = 1; candidate < kNumCandidates; ++candidate) {
    const double middle = median(ns[candidate]);
    if (middle < of_default * kWorthwhile && middle < best.ns_per_lookup) best = {kCandidates[candidate], middle};
  }
  return best;
}

}  // namespace terabag
