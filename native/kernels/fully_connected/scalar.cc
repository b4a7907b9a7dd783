#include "kernels/fully_connected.h"

// The contract, word for word.
namespace terabag::scalar {

void fully_connected(const FullyConnectedJob& job) {
  for (uint64_t row = 0; row < job.num_rows; ++row) {
    const float* x = job.x + row * job.x_stride;
    for (uint64_t n = 0; n < job.num_outputs; ++n) {
      const float* weight = job.packed + n / kPanelWidth * job.panel_inputs * kPanelWidth + n % kPanelWidth;
      float sum = job.bias[row * job.bias_stride + n];
      for (uint64_t k = 0; k < job.num_inputs; ++k) sum += x[k] * weight[k * kPanelWidth];
      job.y[row * job.y_stride + n] = job.relu && sum < 0.0f ? 0.0f : sum;
    }
  }
}

}  // namespace terabag::scalar
