#include <immintrin.h>

#include "kernels/embedding_bag/prefetch_cursor.h"

namespace terabag {
namespace {

// Sums of one bag that stay in registers: 8 of the 16, which leaves room for rows and weight, and hides the FMA latency.
constexpr uint32_t kMaxVectors = 8;
constexpr uint32_t kLanes = 8;

template <RowFormat format>
inline __m256 row_f32x8(const unsigned char* row, uint32_t d) {
  if constexpr (format == RowFormat::kFp32) return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + d);
  const __m128i raw_u16x8 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + static_cast<uint64_t>(d) * 2));
  if constexpr (format == RowFormat::kFp16) return _mm256_cvtph_ps(raw_u16x8);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw_u16x8), 16));
}

// One bag: ids [at, at + count) of the job, kVectors vectors of the row from `first`. The last vector starts at `last`, where it ends with
// the row: it may overlap the one before, whose values it then computes again, to the same bits. There is no load of half a vector of
// 16-bit values, and a load past the row may leave the mapping.
struct BagPart {
  uint64_t at;
  uint32_t count;
  uint32_t first;
  uint32_t last;
  float* out;
};

// False, with position and value set, at an id out of range. The cursor is null when the rows were fetched for an earlier part.
template <RowFormat format, uint32_t kVectors>
inline __attribute__((always_inline)) bool pool_part(const BagJob& job, const BagPart& part, PrefetchCursor* cursor, BadIndex* bad) {
  __m256 sum_f32x8[kVectors];
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kVectors; ++v) sum_f32x8[v] = _mm256_setzero_ps();
  for (uint64_t at = part.at; at < part.at + part.count; ++at) {
    if (cursor != nullptr) cursor->run_ahead(job);
    const int64_t id = load_index(job, at);
    if (static_cast<uint64_t>(id) >= job.num_rows) {
      bad->position = at;
      bad->value = id;
      return false;
    }
    const unsigned char* row = job.rows + static_cast<uint64_t>(id) * job.row_pitch;
    const __m256 weight_f32x8 = _mm256_set1_ps(load_weight(job, at));
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) {
      const uint32_t d = v + 1 < kVectors ? part.first + v * kLanes : part.last;
      sum_f32x8[v] = _mm256_fmadd_ps(weight_f32x8, row_f32x8<format>(row, d), sum_f32x8[v]);
    }
  }
  if (job.mean && part.count > 0) {
    const __m256 count_f32x8 = _mm256_set1_ps(static_cast<float>(part.count));
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) sum_f32x8[v] = _mm256_div_ps(sum_f32x8[v], count_f32x8);
  }
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kVectors; ++v) {
    _mm256_storeu_ps(part.out + (v + 1 < kVectors ? part.first + v * kLanes : part.last), sum_f32x8[v]);
  }
  return true;
}

// All bags of a job with rows shorter than a vector.
template <RowFormat format>
bool pool_short_rows(const BagJob& job, PrefetchCursor& shared_cursor, BadIndex* bad) {
  PrefetchCursor cursor = shared_cursor;
  uint64_t at = 0;
  for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
    float* out = job.out + static_cast<uint64_t>(bag) * job.dim;
    const uint32_t count = job.offsets[bag + 1] - job.offsets[bag];
    float sum[kLanes] = {};
    for (uint32_t i = 0; i < count; ++i, ++at) {
      cursor.run_ahead(job);
      const int64_t id = load_index(job, at);
      if (static_cast<uint64_t>(id) >= job.num_rows) {
        bad->bag = bag;
        bad->position = at;
        bad->value = id;
        return false;
      }
      const unsigned char* row = job.rows + static_cast<uint64_t>(id) * job.row_pitch;
      const float weight = load_weight(job, at);
      for (uint32_t d = 0; d < job.dim; ++d) sum[d] = __builtin_fmaf(weight, row_value(row, format, d), sum[d]);
    }
    const float divisor = job.mean && count > 0 ? static_cast<float>(count) : 1.0f;
    for (uint32_t d = 0; d < job.dim; ++d) out[d] = sum[d] / divisor;
  }
  shared_cursor = cursor;
  return true;
}

// All bags of a job with rows of kVectors vectors.
template <RowFormat format, uint32_t kVectors>
bool pool_job(const BagJob& job, PrefetchCursor& shared_cursor, BadIndex* bad) {
  PrefetchCursor cursor = shared_cursor;  // A copy stays in registers.
  BagPart part{0, 0, 0, job.dim - kLanes, job.out};
  for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
    part.count = job.offsets[bag + 1] - job.offsets[bag];
    if (!pool_part<format, kVectors>(job, part, &cursor, bad)) {
      bad->bag = bag;
      return false;
    }
    part.at += part.count;
    part.out += job.dim;
  }
  shared_cursor = cursor;
  return true;
}

// The last kVectors vectors of one bag with long rows.
template <RowFormat format, uint32_t kVectors>
bool pool_last_part(const BagJob& job, const BagPart& part, BadIndex* bad) {
  return pool_part<format, kVectors>(job, part, nullptr, bad);
}

// All bags of a job with longer rows: part by part of the row, bag by bag, so that rows are still in cache for their later parts.
template <RowFormat format>
bool pool_long_rows(const BagJob& job, PrefetchCursor& shared_cursor, BadIndex* bad) {
  using PoolLastPart = bool(const BagJob&, const BagPart&, BadIndex*);
  static constexpr PoolLastPart* kLastParts[kMaxVectors] = {pool_last_part<format, 1>, pool_last_part<format, 2>, pool_last_part<format, 3>,
                                                            pool_last_part<format, 4>, pool_last_part<format, 5>, pool_last_part<format, 6>,
                                                            pool_last_part<format, 7>, pool_last_part<format, 8>};
  constexpr uint32_t kPartValues = kMaxVectors * kLanes;
  PrefetchCursor cursor = shared_cursor;
  uint64_t at = 0;
  for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
    BagPart part{at, job.offsets[bag + 1] - job.offsets[bag], 0, kPartValues - kLanes, job.out + static_cast<uint64_t>(bag) * job.dim};
    bool good = pool_part<format, kMaxVectors>(job, part, &cursor, bad);
    for (part.first = kPartValues; good && job.dim - part.first > kPartValues; part.first += kPartValues) {
      part.last = part.first + kPartValues - kLanes;
      good = pool_last_part<format, kMaxVectors>(job, part, bad);
    }
    part.last = job.dim - kLanes;
    if (!good || !kLastParts[(job.dim - part.first - 1) / kLanes](job, part, bad)) {
      bad->bag = bag;
      return false;
    }
    at += part.count;
  }
  shared_cursor = cursor;
  return true;
}

template <RowFormat format>
bool pool_format(const BagJob& job, PrefetchCursor& cursor, BadIndex* bad) {
  if (job.dim < kLanes) return pool_short_rows<format>(job, cursor, bad);
  switch ((job.dim - 1) / kLanes) {
    case 0: return pool_job<format, 1>(job, cursor, bad);
    case 1: return pool_job<format, 2>(job, cursor, bad);
    case 2: return pool_job<format, 3>(job, cursor, bad);
    case 3: return pool_job<format, 4>(job, cursor, bad);
    case 4: return pool_job<format, 5>(job, cursor, bad);
    case 5: return pool_job<format, 6>(job, cursor, bad);
    case 6: return pool_job<format, 7>(job, cursor, bad);
    case 7: return pool_job<format, 8>(job, cursor, bad);
    default: return pool_long_rows<format>(job, cursor, bad);
  }
}

}  // namespace

namespace avx2 {

KernelStatus pool_bags(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad) {
  PrefetchCursor cursor(jobs, num_jobs);
  for (uint32_t j = 0; j < num_jobs; ++j) {
    const BagJob& job = jobs[j];
    const bool good = job.format == RowFormat::kFp32   ? pool_format<RowFormat::kFp32>(job, cursor, bad)
                      : job.format == RowFormat::kFp16 ? pool_format<RowFormat::kFp16>(job, cursor, bad)
                                                       : pool_format<RowFormat::kBf16>(job, cursor, bad);
    if (!good) {
      bad->job = j;
      return KernelStatus::kIndexOutOfRange;
    }
  }
  return KernelStatus::kOk;
}

}  // namespace avx2
}  // namespace terabag
