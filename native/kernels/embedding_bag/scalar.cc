#include "kernels/bag_reads.h"

// The contract, word for word.
namespace terabag::scalar {

KernelStatus pool_bags(const BagJob* jobs, uint32_t num_jobs, BadIndex* bad) {
  for (uint32_t j = 0; j < num_jobs; ++j) {
    const BagJob& job = jobs[j];
    uint64_t at = 0;
    for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
      float* out = job.out + static_cast<uint64_t>(bag) * job.dim;
      const uint32_t count = job.offsets[bag + 1] - job.offsets[bag];
      for (uint32_t d = 0; d < job.dim; ++d) out[d] = 0.0f;
      float biases = 0.0f;
      for (uint32_t i = 0; i < count; ++i, ++at) {
        const int64_t id = load_index(job, at);
        if (static_cast<uint64_t>(id) >= job.num_rows) {
          *bad = {j, bag, at, id};
          return KernelStatus::kIndexOutOfRange;
        }
        const unsigned char* row = job.rows + static_cast<uint64_t>(id) * job.row_pitch;
        float weight = load_weight(job, at);
        if (is_quantized(job.format)) {
          const RowScale scale = row_scale(row, job.format, job.dim);
          biases += weight * scale.bias;
          weight *= scale.scale;
        }
        for (uint32_t d = 0; d < job.dim; ++d) out[d] += weight * row_value(row, job.format, d);
      }
      if (is_quantized(job.format)) {
        for (uint32_t d = 0; d < job.dim; ++d) out[d] += biases;
      }
      if (job.pooling == Pooling::kMean && count > 0) {
        for (uint32_t d = 0; d < job.dim; ++d) out[d] /= static_cast<float>(count);
      }
    }
  }
  return KernelStatus::kOk;
}

}  // namespace terabag::scalar
