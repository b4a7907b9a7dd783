#include "kernels/row_values.h"

namespace terabag {
namespace {

int64_t pool_bags(const BagJob& job, uint32_t* bad_bag) {
  for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
    float* out = job.out + static_cast<uint64_t>(bag) * job.dim;
    for (uint32_t d = 0; d < job.dim; ++d) out[d] = 0.0f;
    const uint32_t from = load<uint32_t>(job.offsets + bag * 4ull);
    const uint32_t to = load<uint32_t>(job.offsets + (bag + 1ull) * 4);
    for (uint32_t i = from; i < to; ++i) {
      const int64_t index = load_index(job, i);
      if (static_cast<uint64_t>(index) >= job.num_rows) {
        *bad_bag = bag;
        return i;
      }
      const unsigned char* row = job.rows + static_cast<uint64_t>(index) * job.row_pitch;
      const float weight = job.weights == nullptr ? 1.0f : load<float>(job.weights + i * 4ull);
      for (uint32_t d = 0; d < job.dim; ++d) out[d] += weight * row_value(row, job.format, d);
    }
    if (job.mean && to > from) {
      for (uint32_t d = 0; d < job.dim; ++d) out[d] /= static_cast<float>(to - from);
    }
  }
  return -1;
}

void fully_connected(const float* x, uint32_t num_rows, uint32_t num_inputs, const float* packed, const float* bias, uint32_t num_outputs,
                     float* y) {
  for (uint64_t row = 0; row < num_rows; ++row) {
    for (uint32_t n = 0; n < num_outputs; ++n) {
      const float* column = packed + static_cast<uint64_t>(n / kPanel) * num_inputs * kPanel + n % kPanel;
      float sum = bias[n];
      for (uint32_t k = 0; k < num_inputs; ++k) sum += x[row * num_inputs + k] * column[static_cast<uint64_t>(k) * kPanel];
      y[row * num_outputs + n] = sum;
    }
  }
}

float dot(const float* a, const float* b, uint32_t dim) {
  float sum = 0.0f;
  for (uint32_t d = 0; d < dim; ++d) sum += a[d] * b[d];
  return sum;
}

}  // namespace

const KernelTable kScalarKernels = {"scalar", pool_bags, fully_connected, dot};

}  // namespace terabag
