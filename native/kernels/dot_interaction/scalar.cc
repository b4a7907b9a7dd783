#include "kernels/dot_interaction.h"

// The contract, word for word.
namespace terabag::scalar {

void dot_interaction(const DotInteractionJob& job) {
  for (uint32_t item = 0; item < job.num_items; ++item) {
    const auto x = [&job, item](uint32_t v) { return vector_of(job, item, v); };
    for (uint32_t d = 0; d < job.dim; ++d) job.out[item * job.out_stride + d] = x(0)[d];
    for (uint32_t i = 0; i < job.num_vectors; ++i) {
      for (uint32_t j = 0; j < (job.diagonal ? i + 1 : i); ++j) {
        float sum = 0.0f;
        for (uint32_t d = 0; d < job.dim; ++d) sum += x(i)[d] * x(j)[d];
        pairs_of(job, item, i)[j] = sum;
      }
    }
  }
}

}  // namespace terabag::scalar
