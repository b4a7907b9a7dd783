#pragma once
#include "kernels/embedding_bag/prefetch_cursor.h"

// The walk over jobs, bags and ids that all vector kernels share. An instruction set brings its vectors, in a struct of an unnamed
// namespace, so that nothing here is shared between object files that are compiled for different CPUs:
//
//   kLanes, kMaxVectors            values of a vector; vectors of sums that stay in registers
//   Floats                         a vector of float32
//   Last                           which lanes a row's last vector has; Last(count) of 1 to kLanes
//   zero(), broadcast(x), add(a, b), divide(a, b), store(to, x), store_last(to, x, last)
//   row_scale<format>(row, dim)    of a quantized row
//   factor<format>(weight)         what accumulate multiplies values with; for quantized rows weight is weight * scale
//   accumulate<format>(sum, factor, row, d)             sum + factor * values [d, d + kLanes) of the row
//   accumulate_last<format>(sum, factor, row, d, last)  the same for the row's last vector: reads no byte past the row, which may be the
//                                                       last of its mapping
namespace terabag {
namespace {

// Ids [at, at + count) of a job, values [first, ...) of the row.
struct BagPart {
  uint64_t at;
  uint32_t count;
  uint32_t first;
  float* out;  // of the whole bag
};

template <typename Isa>
class RowPooler {
  using Floats = typename Isa::Floats;
  using Last = typename Isa::Last;
  static constexpr uint32_t kLanes = Isa::kLanes;
  static constexpr uint32_t kMaxVectors = Isa::kMaxVectors;
  static constexpr uint32_t kPartValues = kMaxVectors * kLanes;
  // Vectors of a row are read in this step, modulo kMaxVectors. Lines that are read in order look like the start of a long stream: the
  // hardware then fetches what lies behind the row, for nothing (Zen 4, rows of 512 bytes: 41 ns in order, 23 ns in this one).
  static constexpr uint32_t kReadStep = 3;
  static_assert(kMaxVectors % kReadStep != 0, "every vector has to be read");

 public:
  static KernelStatus pool_bags(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad) {
    PrefetchCursor cursor(jobs, num_jobs);
    for (uint32_t j = 0; j < num_jobs; ++j) {
      if (!pool_any(jobs[j], cursor, bad)) {
        bad->job = j;
        return KernelStatus::kIndexOutOfRange;
      }
    }
    return KernelStatus::kOk;
  }

 private:
  // False, with position and value set, at an id out of range. The cursor is null when the rows were fetched for an earlier part.
  template <RowFormat format, uint32_t kVectors>
  static inline __attribute__((always_inline)) bool pool_part(const BagJob& job, const BagPart& part, Last last, PrefetchCursor* cursor,
                                                              BadIndex* bad) {
    constexpr bool kQuantized = format >= RowFormat::kInt8;
    Floats sums[kVectors];
    float biases = 0.0f;
#pragma GCC unroll 16
    for (uint32_t v = 0; v < kVectors; ++v) sums[v] = Isa::zero();
    for (uint64_t at = part.at; at < part.at + part.count; ++at) {
      if (cursor != nullptr) cursor->run_ahead(job);
      const int64_t id = load_index(job, at);
      if (static_cast<uint64_t>(id) >= job.num_rows) {
        bad->position = at;
        bad->value = id;
        return false;
      }
      const unsigned char* row = job.rows + static_cast<uint64_t>(id) * job.row_pitch;
      float weight = load_weight(job, at);
      if constexpr (kQuantized) {
        const RowScale scale = Isa::template row_scale<format>(row, job.dim);
        biases = __builtin_fmaf(weight, scale.bias, biases);
        weight *= scale.scale;
      }
      const Floats factor = Isa::template factor<format>(weight);
#pragma GCC unroll 16
      for (uint32_t step = 0; step < kMaxVectors; ++step) {
        const uint32_t v = step * kReadStep % kMaxVectors;
        if (v + 1 < kVectors) sums[v] = Isa::template accumulate<format>(sums[v], factor, row, part.first + v * kLanes);
        if (v + 1 == kVectors) sums[v] = Isa::template accumulate_last<format>(sums[v], factor, row, part.first + v * kLanes, last);
      }
    }
    if constexpr (kQuantized) {
#pragma GCC unroll 16
      for (uint32_t v = 0; v < kVectors; ++v) sums[v] = Isa::add(sums[v], Isa::broadcast(biases));
    }
    if (job.mean && part.count > 0) {
      const Floats count = Isa::broadcast(static_cast<float>(part.count));
#pragma GCC unroll 16
      for (uint32_t v = 0; v < kVectors; ++v) sums[v] = Isa::divide(sums[v], count);
    }
    float* out = part.out + part.first;
#pragma GCC unroll 16
    for (uint32_t v = 0; v + 1 < kVectors; ++v) Isa::store(out + v * kLanes, sums[v]);
    Isa::store_last(out + (kVectors - 1) * kLanes, sums[kVectors - 1], last);
    return true;
  }

  // All bags of a job with rows of kVectors vectors.
  template <RowFormat format, uint32_t kVectors>
  static bool pool_job(const BagJob& job, PrefetchCursor& shared_cursor, BadIndex* bad) {
    PrefetchCursor cursor = shared_cursor;  // A copy stays in registers.
    const Last last(job.dim - (kVectors - 1) * kLanes);
    BagPart part{0, 0, 0, job.out};
    for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
      part.count = job.offsets[bag + 1] - job.offsets[bag];
      if (!pool_part<format, kVectors>(job, part, last, &cursor, bad)) {
        bad->bag = bag;
        return false;
      }
      part.at += part.count;
      part.out += job.dim;
    }
    shared_cursor = cursor;
    return true;
  }

  // Values from part.first to the end of the row, at most kMaxVectors vectors of them.
  template <RowFormat format, uint32_t kVectors>
  static bool pool_last_part(const BagJob& job, const BagPart& part, BadIndex* bad) {
    return pool_part<format, kVectors>(job, part, Last(job.dim - part.first - (kVectors - 1) * kLanes), nullptr, bad);
  }

  // All bags of a job with longer rows: part by part of the row, bag by bag, so that rows are still in cache for their later parts.
  template <RowFormat format>
  static bool pool_long_rows(const BagJob& job, PrefetchCursor& shared_cursor, BadIndex* bad) {
    PrefetchCursor cursor = shared_cursor;
    const Last whole(kLanes);
    uint64_t at = 0;
    for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
      BagPart part{at, job.offsets[bag + 1] - job.offsets[bag], 0, job.out + static_cast<uint64_t>(bag) * job.dim};
      bool good = pool_part<format, kMaxVectors>(job, part, whole, &cursor, bad);
      for (part.first = kPartValues; good && job.dim - part.first > kPartValues; part.first += kPartValues) {
        good = pool_part<format, kMaxVectors>(job, part, whole, nullptr, bad);
      }
      if (!good || !for_vectors<format, 1>((job.dim - part.first - 1) / kLanes + 1, [&](auto vectors) {
            return pool_last_part<format, decltype(vectors)::value>(job, part, bad);
          })) {
        bad->bag = bag;
        return false;
      }
      at += part.count;
    }
    shared_cursor = cursor;
    return true;
  }

  template <uint32_t number>
  struct Vectors {
    static constexpr uint32_t value = number;
  };
  // Calls run with the number of vectors as a type.
  template <RowFormat format, uint32_t kVectors, typename Run>
  static bool for_vectors(uint32_t vectors, const Run& run) {
    if constexpr (kVectors == kMaxVectors) {
      return run(Vectors<kVectors>{});
    } else {
      return vectors == kVectors ? run(Vectors<kVectors>{}) : for_vectors<format, kVectors + 1>(vectors, run);
    }
  }

  template <RowFormat format>
  static bool pool_format(const BagJob& job, PrefetchCursor& cursor, BadIndex* bad) {
    if (job.dim > kPartValues) return pool_long_rows<format>(job, cursor, bad);
    return for_vectors<format, 1>((job.dim - 1) / kLanes + 1,
                                  [&](auto vectors) { return pool_job<format, decltype(vectors)::value>(job, cursor, bad); });
  }

  static bool pool_any(const BagJob& job, PrefetchCursor& cursor, BadIndex* bad) {
    switch (job.format) {
      case RowFormat::kFp32: return pool_format<RowFormat::kFp32>(job, cursor, bad);
      case RowFormat::kFp16: return pool_format<RowFormat::kFp16>(job, cursor, bad);
      case RowFormat::kBf16: return pool_format<RowFormat::kBf16>(job, cursor, bad);
      case RowFormat::kInt8: return pool_format<RowFormat::kInt8>(job, cursor, bad);
      case RowFormat::kInt8Fp16: return pool_format<RowFormat::kInt8Fp16>(job, cursor, bad);
      case RowFormat::kInt4: return pool_format<RowFormat::kInt4>(job, cursor, bad);
    }
    return false;
  }
};

}  // namespace
}  // namespace terabag
