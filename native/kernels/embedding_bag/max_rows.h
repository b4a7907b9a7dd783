#pragma once
#include <limits>

#include "kernels/embedding_bag/row_stream.h"

namespace terabag {
namespace {

// The maximum over the rows of bags. Instruction sets bring the vectors that pool_rows.h names. The maxima of a bag lie in `out` while it
// is read, but for the last vector's: one loop serves every length of rows, in place of one for each number of vectors in registers. A row
// that comes from memory takes longer than its maxima, which come from the L1.
template <typename Isa>
class RowMaximum {
  using Floats = typename Isa::Floats;
  using Last = typename Isa::Last;
  static constexpr uint32_t kLanes = Isa::kLanes;

 public:
  // All bags of a job; false, with bag, position and value set, at an id that is refused.
  static bool pool_job(const BagJob& job, RowStream& rows, BadIndex* bad) {
    switch (job.format) {
#define TERABAG_CASE(format, name, value_bits, scale_and_bias) \
  case RowFormat::format: return pool_format<RowFormat::format>(job, rows, bad);
      TERABAG_ROW_FORMATS(TERABAG_CASE)
#undef TERABAG_CASE
    }
    return false;
  }

 private:
  template <RowFormat format>
  static bool pool_format(const BagJob& job, RowStream& rows, BadIndex* bad) {
    const bool starts_inside_a_byte = job.dim % values_per_byte(format) != 0;
    return job.dim < kLanes || starts_inside_a_byte ? pool_bags<format, true>(job, rows, bad) : pool_bags<format, false>(job, rows, bad);
  }

  template <RowFormat format, bool kShort>
  static bool pool_bags(const BagJob& job, RowStream& rows, BadIndex* bad) {
    uint64_t at = 0;
    float* out = job.out;
    for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
      const uint32_t count = job.offsets[bag + 1] - job.offsets[bag];
      uint32_t num_pooled = count;
      if (!pool_bag<format, kShort>(job, at, count, out, rows, &num_pooled, bad)) {
        bad->bag = bag;
        return false;
      }
      at += count;
      if (job.divisor) out[job.dim] = static_cast<float>(num_pooled);
      out += floats_per_bag(job);
    }
    return true;
  }

  template <RowFormat format, bool kShort>
  static bool pool_bag(const BagJob& job, uint64_t at, uint32_t count, float* out, RowStream& rows, uint32_t* num_pooled, BadIndex* bad) {
    // Values of the vectors before the last, which ends with the row; see pool_rows.h.
    const uint32_t before = (job.dim - 1) / kLanes * kLanes;
    const uint32_t last_value = kShort ? before : job.dim - kLanes;
    const Last last(kShort ? job.dim - before : kLanes);
    const int64_t lines = lines_of(job);
    const Floats lowest = Isa::broadcast(-std::numeric_limits<float>::infinity());
    for (uint32_t d = 0; d < before; d += kLanes) Isa::store(out + d, lowest);
    Floats last_maximum = lowest;
    for (uint32_t done = 0; done < count;) {
      const uint32_t taken = rows.take(count - done, lines);
      for (uint32_t i = 0; i < taken; ++i) {
        const unsigned char* row = rows.row(i);
        if (!is_row(row)) {
          if (row == skipped_row()) {
            --*num_pooled;
            continue;
          }
          bad->position = at + done + i;
          bad->value = rows.bad_id();
          return false;
        }
        float weight = load_weight(job, at + done + i), bias = 0.0f;
        if constexpr (is_quantized(format)) {
          const RowScale scale = Isa::template row_scale<format>(row, job.dim);
          bias = weight * scale.bias;
          weight *= scale.scale;
        }
        const Floats factor = Isa::template factor<format>(weight), biases = Isa::broadcast(bias);
        for (uint32_t d = 0; d < before; d += kLanes) {
          const Floats values = Isa::template in_order<format>(Isa::template accumulate<format>(biases, factor, row, d));
          Isa::store(out + d, Isa::larger(Isa::load_floats(out + d), values));
        }
        Floats values;
        if constexpr (kShort) {
          values = Isa::template accumulate_last<format>(biases, factor, row, last_value, last);
        } else {
          values = Isa::template accumulate<format>(biases, factor, row, last_value);
        }
        last_maximum = Isa::larger(last_maximum, Isa::template in_order<format>(values));
      }
      done += taken;
    }
    // A negative zero becomes a zero.
    for (uint32_t d = 0; d < before; d += kLanes)
      Isa::store(out + d, *num_pooled == 0 ? Isa::zero() : Isa::add(Isa::load_floats(out + d), Isa::zero()));
    last_maximum = *num_pooled == 0 ? Isa::zero() : Isa::add(last_maximum, Isa::zero());
    if constexpr (kShort) {
      Isa::store_last(out + last_value, last_maximum, last);
    } else {
      Isa::store(out + last_value, last_maximum);
    }
    return true;
  }
};

}  // namespace
}  // namespace terabag
