#include <immintrin.h>

#include "kernels/embedding_bag/prefetch_cursor.h"

namespace terabag {
namespace {

// Sums of one bag that stay in registers: 8 x 16 values. Rows up to dim 128 are read in one pass, and 8 chains hide the FMA latency.
constexpr uint32_t kMaxVectors = 8;
constexpr uint32_t kLanes = 16;

template <RowFormat format>
inline __m512 row_f32x16(const unsigned char* row, uint32_t d) {
  if constexpr (format == RowFormat::kFp32) return _mm512_loadu_ps(row + static_cast<uint64_t>(d) * 4);
  const __m256i raw_u16x16 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + static_cast<uint64_t>(d) * 2));
  if constexpr (format == RowFormat::kFp16) return _mm512_cvtph_ps(raw_u16x16);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw_u16x16), 16));
}

// The same for a row's last values: reads no byte past the row, which may be the last of its mapping.
template <RowFormat format>
inline __m512 row_tail_f32x16(const unsigned char* row, uint32_t d, __mmask16 mask) {
  if constexpr (format == RowFormat::kFp32) return _mm512_maskz_loadu_ps(mask, row + static_cast<uint64_t>(d) * 4);
  const __m256i raw_u16x16 = _mm256_maskz_loadu_epi16(mask, row + static_cast<uint64_t>(d) * 2);
  if constexpr (format == RowFormat::kFp16) return _mm512_cvtph_ps(raw_u16x16);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw_u16x16), 16));
}

// One bag: ids [at, at + count) of the job, values [first, first + kVectors * 16) of the row, the last vector masked.
struct BagPart {
  uint64_t at;
  uint32_t count;
  uint32_t first;
  __mmask16 last_mask;
  float* out;
};

// False, with position and value set, at an id out of range. The cursor is null when the rows were fetched for an earlier part.
template <RowFormat format, uint32_t kVectors>
inline __attribute__((always_inline)) bool pool_part(const BagJob& job, const BagPart& part, PrefetchCursor* cursor, BadIndex* bad) {
  __m512 sum_f32x16[kVectors];
#pragma GCC unroll 8
  for (uint32_t v = 0; v < kVectors; ++v) sum_f32x16[v] = _mm512_setzero_ps();
  for (uint64_t at = part.at; at < part.at + part.count; ++at) {
    if (cursor != nullptr) cursor->run_ahead(job);
    const int64_t id = load_index(job, at);
    if (static_cast<uint64_t>(id) >= job.num_rows) {
      bad->position = at;
      bad->value = id;
      return false;
    }
    const unsigned char* row = job.rows + static_cast<uint64_t>(id) * job.row_pitch;
    const __m512 weight_f32x16 = _mm512_set1_ps(load_weight(job, at));
#pragma GCC unroll 8
    for (uint32_t v = 0; v + 1 < kVectors; ++v) {
      sum_f32x16[v] = _mm512_fmadd_ps(weight_f32x16, row_f32x16<format>(row, part.first + v * kLanes), sum_f32x16[v]);
    }
    const __m512 last_f32x16 = row_tail_f32x16<format>(row, part.first + (kVectors - 1) * kLanes, part.last_mask);
    sum_f32x16[kVectors - 1] = _mm512_fmadd_ps(weight_f32x16, last_f32x16, sum_f32x16[kVectors - 1]);
  }
  if (job.mean && part.count > 0) {
    const __m512 count_f32x16 = _mm512_set1_ps(static_cast<float>(part.count));
#pragma GCC unroll 8
    for (uint32_t v = 0; v < kVectors; ++v) sum_f32x16[v] = _mm512_div_ps(sum_f32x16[v], count_f32x16);
  }
  float* out = part.out + part.first;
#pragma GCC unroll 8
  for (uint32_t v = 0; v + 1 < kVectors; ++v) _mm512_storeu_ps(out + v * kLanes, sum_f32x16[v]);
  _mm512_mask_storeu_ps(out + (kVectors - 1) * kLanes, part.last_mask, sum_f32x16[kVectors - 1]);
  return true;
}

// Of the vector that a row of this dim ends in.
inline __mmask16 tail_mask(uint32_t dim) { return static_cast<__mmask16>(0xffffu >> ((kLanes - dim % kLanes) % kLanes)); }

// All bags of a job with rows of kVectors vectors.
template <RowFormat format, uint32_t kVectors>
bool pool_job(const BagJob& job, PrefetchCursor& shared_cursor, BadIndex* bad) {
  PrefetchCursor cursor = shared_cursor;  // A copy stays in registers.
  BagPart part{0, 0, 0, tail_mask(job.dim), job.out};
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
  PrefetchCursor cursor = shared_cursor;
  uint64_t at = 0;
  for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
    BagPart part{at, job.offsets[bag + 1] - job.offsets[bag], 0, 0xffff, job.out + static_cast<uint64_t>(bag) * job.dim};
    bool good = pool_part<format, kMaxVectors>(job, part, &cursor, bad);
    for (part.first = kMaxVectors * kLanes; good && job.dim - part.first > kMaxVectors * kLanes; part.first += kMaxVectors * kLanes) {
      good = pool_last_part<format, kMaxVectors>(job, part, bad);
    }
    part.last_mask = tail_mask(job.dim);
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

namespace avx512 {

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

}  // namespace avx512
}  // namespace terabag
