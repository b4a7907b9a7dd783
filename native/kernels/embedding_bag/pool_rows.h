#pragma once
#include "kernels/embedding_bag/divisor.h"
#include "kernels/embedding_bag/max_rows.h"
#include "kernels/embedding_bag/row_stream.h"

// The walk over jobs, bags and ids that all vector kernels share. An instruction set brings its vectors, in a struct of an unnamed
// namespace, so that nothing here is shared between object files that are compiled for different CPUs:
//
//   kLanes, kMaxVectors            values of a vector; vectors of sums that stay in registers
//   Floats                         a vector of float32
//   Last                           which lanes the last vector of a short row has; Last(count) of 1 to kLanes
//   zero(), broadcast(x), add(a, b), divide(a, b), load_floats(from), store(to, x), store_last(to, x, last)
//   larger(a, b)                   a where a > b or a is NaN, else b
//   row_scale<format>(row, dim)    of a quantized row
//   in_order<format>(sum)          sums with their lanes in the order of the values; accumulate may keep those of quantized rows in another
//   factor<format>(weight)         what accumulate multiplies values with; for quantized rows weight is weight * scale
//   accumulate<format>(sum, factor, row, d)             sum + factor * values [d, d + kLanes) of the row
//   accumulate_last<format>(sum, factor, row, d, last)  the same for the last vector of a short row: reads no byte past the row, which may
//                                                       be the last of its mapping
//
// The last vector of a row is the one that ends with it, and overlaps the vector before: what both have is added up twice, in the same way.
// Loads need no mask then, which would cost more than the rest of the row (Zen 4, fp32, dim 64, rows that come from memory: 34 ns with a
// masked load, 23 ns without). Short are rows with less than a vector, and rows of less than whole bytes (int4 of odd dim), whose last
// vector would start inside a byte.
namespace terabag {
namespace {

// Ends a chain of `if constexpr` over the formats: one that an instruction set does not know does not compile.
template <RowFormat format>
static constexpr bool kUnknownFormat = false;

// Ids [at, at + count) of a job, values [first, ...) of the row; `last` is where the last vector starts.
struct BagPart {
  uint64_t at;
  uint32_t count;
  uint32_t first;
  uint32_t last;
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
    RowStream stream(jobs, num_jobs);
    for (uint32_t j = 0; j < num_jobs; ++j) {
      if (!pool_any(jobs[j], stream, bad)) {
        bad->job = j;
        return KernelStatus::kIndexOutOfRange;
      }
    }
    return KernelStatus::kOk;
  }

 private:
  // False, with position and value set, at an id that is refused.
  template <RowFormat format, uint32_t kVectors, bool kShort, bool kWeighted, typename Rows>
  static inline __attribute__((always_inline)) bool pool_part(const BagJob& job, const BagPart& part, Last last, Rows& rows,
                                                              BadIndex* bad) {
    constexpr bool kQuantized = is_quantized(format);
    const uint32_t dim = job.dim, first = part.first, last_value = part.last;
    const int64_t lines = lines_of(job);
    Floats sums[kVectors];
    float biases = 0.0f;
    uint32_t num_pooled = part.count;
#pragma GCC unroll 16
    for (uint32_t v = 0; v < kVectors; ++v) sums[v] = Isa::zero();
    for (uint32_t done = 0; done < part.count;) {
      const uint32_t count = rows.take(part.count - done, lines);
      for (uint32_t i = 0; i < count; ++i) {
        const unsigned char* row = rows.row(i);
        if (!is_row(row)) {
          if (row == skipped_row()) {
            --num_pooled;
            continue;
          }
          bad->position = part.at + done + i;
          bad->value = rows.bad_id();
          return false;
        }
        float weight = kWeighted ? load<float>(job.weights + (part.at + done + i) * 4) : 1.0f;
        if constexpr (kQuantized) {
          const RowScale scale = Isa::template row_scale<format>(row, dim);
          biases = __builtin_fmaf(weight, scale.bias, biases);
          weight *= scale.scale;
        }
        const Floats factor = Isa::template factor<format>(weight);
#pragma GCC unroll 16
        for (uint32_t step = 0; step < kMaxVectors; ++step) {
          const uint32_t v = step * kReadStep % kMaxVectors;
          if (v + 1 < kVectors) sums[v] = Isa::template accumulate<format>(sums[v], factor, row, first + v * kLanes);
          if (v + 1 == kVectors) {
            if constexpr (kShort) {
              sums[v] = Isa::template accumulate_last<format>(sums[v], factor, row, last_value, last);
            } else {
              sums[v] = Isa::template accumulate<format>(sums[v], factor, row, last_value);
            }
          }
          // Keeps the loads in this order.
          if (v < kVectors) __asm__ volatile("" : "+r"(row));
        }
      }
      done += count;
    }
    if constexpr (kQuantized) {
#pragma GCC unroll 16
      for (uint32_t v = 0; v < kVectors; ++v) sums[v] = Isa::add(Isa::template in_order<format>(sums[v]), Isa::broadcast(biases));
    }
    if (has_divisor(job)) {
      const float divisor = divisor_of(job, part.at, {part.count, num_pooled});
      if (job.divisor) {
        part.out[dim] = divisor;
      } else {
        const Floats divisors = Isa::broadcast(divisor);
#pragma GCC unroll 16
        for (uint32_t v = 0; v < kVectors; ++v) sums[v] = divisor == 0.0f ? Isa::zero() : Isa::divide(sums[v], divisors);
      }
    }
    float* out = part.out + part.first;
#pragma GCC unroll 16
    for (uint32_t v = 0; v + 1 < kVectors; ++v) Isa::store(out + v * kLanes, sums[v]);
    if constexpr (kShort) {
      Isa::store_last(part.out + part.last, sums[kVectors - 1], last);
    } else {
      Isa::store(part.out + part.last, sums[kVectors - 1]);
    }
    return true;
  }

  // All bags of a job with rows of kVectors vectors.
  template <RowFormat format, uint32_t kVectors, bool kShort, bool kWeighted, typename Rows>
  static bool pool_job(const BagJob& job, Rows& rows, BadIndex* bad) {
    constexpr uint32_t kBefore = (kVectors - 1) * kLanes;
    const Last last(job.dim - kBefore);
    const uint64_t floats = floats_per_bag(job);
    BagPart part{0, 0, 0, kShort ? kBefore : job.dim - kLanes, job.out};
    for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
      part.count = job.offsets[bag + 1] - job.offsets[bag];
      if (!pool_part<format, kVectors, kShort, kWeighted>(job, part, last, rows, bad)) {
        bad->bag = bag;
        return false;
      }
      part.at += part.count;
      part.out += floats;
    }
    return true;
  }

  // All bags of a job with longer rows: part by part of the row, bag by bag, so that rows are still in cache for their later parts.
  template <RowFormat format, bool kShort, bool kWeighted, typename Rows>
  static bool pool_long_rows(const BagJob& job, Rows& rows, BadIndex* bad) {
    const Last whole(kLanes);
    BagPart part{0, 0, 0, kPartValues - kLanes, job.out};
    for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
      part.count = job.offsets[bag + 1] - job.offsets[bag];
      if (!pool_part<format, kMaxVectors, false, kWeighted>(job, part, whole, rows, bad) ||
          !pool_later_parts<format, kShort, kWeighted>(job, part, bad)) {
        bad->bag = bag;
        return false;
      }
      part.at += part.count;
      part.out += floats_per_bag(job);
    }
    return true;
  }

  // The parts behind the first, whose rows are in cache.
  template <RowFormat format, bool kShort, bool kWeighted>
  static bool pool_later_parts(const BagJob& job, BagPart part, BadIndex* bad) {
    const uint32_t last_vectors = (job.dim - 1) % kPartValues / kLanes + 1, last_first = (job.dim - 1) / kPartValues * kPartValues;
    for (part.first = kPartValues; part.first < last_first; part.first += kPartValues) {
      part.last = part.first + kPartValues - kLanes;
      RowsAgain rows(job, part.at);
      if (!pool_part<format, kMaxVectors, false, kWeighted>(job, part, Last(kLanes), rows, bad)) return false;
    }
    return for_vectors<1>(last_vectors, [&](auto vectors) {
      constexpr uint32_t kVectors = decltype(vectors)::value, kBefore = (kVectors - 1) * kLanes;
      part.last = kShort ? part.first + kBefore : job.dim - kLanes;
      RowsAgain rows(job, part.at);
      return pool_part<format, kVectors, kShort, kWeighted>(job, part, Last(kShort ? job.dim - part.last : kLanes), rows, bad);
    });
  }

  template <uint32_t number>
  struct Vectors {
    static constexpr uint32_t value = number;
  };
  // Calls run with the number of vectors as a type.
  template <uint32_t kVectors, typename Run>
  static bool for_vectors(uint32_t vectors, const Run& run) {
    if constexpr (kVectors == kMaxVectors) {
      return run(Vectors<kVectors>{});
    } else {
      return vectors == kVectors ? run(Vectors<kVectors>{}) : for_vectors<kVectors + 1>(vectors, run);
    }
  }

  template <RowFormat format, bool kShort, bool kWeighted, typename Rows>
  static bool pool_length(const BagJob& job, Rows& rows, BadIndex* bad) {
    if (job.dim > kPartValues) return pool_long_rows<format, kShort, kWeighted>(job, rows, bad);
    return for_vectors<1>((job.dim - 1) / kLanes + 1,
                          [&](auto vectors) { return pool_job<format, decltype(vectors)::value, kShort, kWeighted>(job, rows, bad); });
  }

  template <RowFormat format, bool kWeighted, typename Rows>
  static bool pool_format(const BagJob& job, Rows& rows, BadIndex* bad) {
    if (job.dim < kLanes) return pool_job<format, 1, true, kWeighted>(job, rows, bad);
    constexpr uint32_t kPerByte = values_per_byte(format);
    if constexpr (kPerByte > 1) {
      if (job.dim % kPerByte != 0) return pool_length<format, true, kWeighted>(job, rows, bad);
    }
    return pool_length<format, false, kWeighted>(job, rows, bad);
  }

  template <bool kWeighted, typename Rows>
  static bool pool_weighted(const BagJob& job, Rows& rows, BadIndex* bad) {
    switch (job.format) {
#define TERABAG_CASE(format, name, value_bits, scale_and_bias)                                                      \
  case RowFormat::format:                                                                                           \
    if constexpr (Rows::takes(RowFormat::format)) return pool_format<RowFormat::format, kWeighted>(job, rows, bad); \
    break;
      TERABAG_ROW_FORMATS(TERABAG_CASE)
#undef TERABAG_CASE
    }
    return false;
  }

  static bool pool_any(const BagJob& job, RowStream& stream, BadIndex* bad) {
    if (job.pooling == Pooling::kMax) return RowMaximum<Isa>::pool_job(job, stream, bad);
    if (!suit_one_by_one(job)) return pool_rows(job, stream, bad);
    if (job.keys != nullptr) {
      KeysOneByOne keys(job);
      return pool_rows(job, keys, bad);
    }
    RowsOneByOne rows(job);
    return pool_rows(job, rows, bad);
  }

  template <typename Rows>
  static bool pool_rows(const BagJob& job, Rows& rows, BadIndex* bad) {
    return job.weights == nullptr ? pool_weighted<false>(job, rows, bad) : pool_weighted<true>(job, rows, bad);
  }
};

}  // namespace
}  // namespace terabag
