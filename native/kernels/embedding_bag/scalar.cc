#include <cmath>
#include <limits>

#include "kernels/embedding_bag/divisor.h"

// The contract, word for word.
namespace terabag::scalar {
namespace {

void take_maximum(const BagJob& job, const unsigned char* row, float weight, float* maximum) {
  float bias = 0.0f;
  if (is_quantized(job.format)) {
    const RowScale scale = row_scale(row, job.format, job.dim);
    bias = weight * scale.bias;
    weight *= scale.scale;
  }
  for (uint32_t d = 0; d < job.dim; ++d) {
    const float value = weight * row_value(row, job.format, d) + bias;
    if (!(maximum[d] > value || std::isnan(maximum[d]))) maximum[d] = value;
  }
}

}  // namespace

KernelStatus pool_bags(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad) {
  for (uint32_t j = 0; j < num_jobs; ++j) {
    const BagJob& job = jobs[j];
    const TableRows table(job);
    uint64_t at = 0, unseen = 0;
    for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
      float* out = job.out + bag * floats_per_bag(job);
      const bool maximum = job.pooling == Pooling::kMax;
      const uint64_t first = at;
      uint32_t count = 0;
      for (uint32_t d = 0; d < job.dim; ++d) out[d] = maximum ? -std::numeric_limits<float>::infinity() : 0.0f;
      float biases = 0.0f;
      for (const uint64_t end = job.offsets[bag + 1] - job.offsets[0]; at < end; ++at) {
        const int64_t id = load_index(job, at);
        const unsigned char* row = row_of_any(job, table, id);
        if (!is_row(row)) row = missed_row(job, id, &unseen);
        if (row == skipped_row()) continue;
        if (row == no_row()) {
          *bad = {j, bag, at, id};
          return KernelStatus::kIndexOutOfRange;
        }
        ++count;
        float weight = load_weight(job, at);
        if (maximum) {
          take_maximum(job, row, weight, out);
          continue;
        }
        if (is_quantized(job.format)) {
          const RowScale scale = row_scale(row, job.format, job.dim);
          biases += weight * scale.bias;
          weight *= scale.scale;
        }
        for (uint32_t d = 0; d < job.dim; ++d) out[d] += weight * row_value(row, job.format, d);
      }
      // Of a maximum none: a negative zero becomes a zero.
      for (uint32_t d = 0; d < job.dim; ++d) out[d] += biases;
      if (maximum && count == 0) {
        for (uint32_t d = 0; d < job.dim; ++d) out[d] = 0.0f;
      }
      const float divisor = divisor_of(job, first, {static_cast<uint32_t>(at - first), count});
      if (job.divisor) {
        out[job.dim] = divisor;
      } else if (job.pooling == Pooling::kMean || job.pooling == Pooling::kWeightedMean) {
        for (uint32_t d = 0; d < job.dim; ++d) out[d] = divisor == 0.0f ? 0.0f : out[d] / divisor;
      }
    }
    count_unseen(job, unseen);
  }
  return KernelStatus::kOk;
}

}  // namespace terabag::scalar
