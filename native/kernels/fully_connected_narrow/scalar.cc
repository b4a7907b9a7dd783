#include "kernels/fully_connected_narrow.h"

#include <cstring>

#include "kernels/fully_connected.h"

// The contract, word for word.
namespace terabag::scalar {
namespace {

const uint32_t* column_of(const NarrowJob& job, uint64_t n) {
  return job.packed + n / kPanelWidth * job.num_units * kPanelWidth + n % kPanelWidth;
}

float from_bf16(uint32_t bits) {
  bits <<= 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void put(const NarrowJob& job, uint64_t row, uint64_t n, float y) { job.y[row * job.y_stride + n] = job.relu && y < 0 ? 0 : y; }

}  // namespace

void fully_connected_bf16(const NarrowJob& job) {
  for (uint64_t row = 0; row < job.num_rows; ++row) {
    for (uint64_t n = 0; n < job.num_outputs; ++n) {
      const uint32_t* column = column_of(job, n);
      float sum = job.bias[n];
      for (uint64_t unit = 0; unit < job.num_units; ++unit) {
        const uint32_t x = job.x[row * job.x_stride + unit], weight = column[unit * kPanelWidth];
        sum += from_bf16(x & 0xffff) * from_bf16(weight & 0xffff);
        sum += from_bf16(x >> 16) * from_bf16(weight >> 16);
      }
      put(job, row, n, sum);
    }
  }
}

void fully_connected_int8(const NarrowJob& job) {
  for (uint64_t row = 0; row < job.num_rows; ++row) {
    for (uint64_t n = 0; n < job.num_outputs; ++n) {
      const uint32_t* column = column_of(job, n);
      int64_t sum = 0;
      for (uint64_t unit = 0; unit < job.num_units; ++unit) {
        for (uint32_t byte = 0; byte < 4; ++byte) {
          const auto x = static_cast<uint8_t>(job.x[row * job.x_stride + unit] >> byte * 8);
          sum += x * static_cast<int8_t>(column[unit * kPanelWidth] >> byte * 8);
        }
      }
      const auto shifted = static_cast<float>(sum - static_cast<int64_t>(job.zero_points[row]) * job.weight_sums[n]);
      put(job, row, n, job.bias[n] + shifted * (job.scales[row] * job.weight_scales[n]));
    }
  }
}

}  // namespace terabag::scalar
