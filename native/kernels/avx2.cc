#include <immintrin.h>

#include "kernels/row_values.h"

namespace terabag {
namespace {

// Ids ahead of the one in work whose rows are fetched: enough rows in flight to cover a DRAM access, across bags.
constexpr uint32_t kPrefetchIds = 32;
constexpr uint32_t kCacheLine = 64;

inline __m256 row_f32x8(const unsigned char* row, RowFormat format, uint32_t d) {
  if (format == RowFormat::kFp32) return _mm256_loadu_ps(reinterpret_cast<const float*>(row + d * 4));
  const __m128i raw_u16x8 = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + d * 2));
  if (format == RowFormat::kFp16) return _mm256_cvtph_ps(raw_u16x8);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw_u16x8), 16));
}

inline void prefetch_row(const BagJob& job, uint32_t position, uint32_t end, uint32_t row_bytes) {
  if (position >= end) return;
  const int64_t index = load_index(job, position);
  if (static_cast<uint64_t>(index) >= job.num_rows) return;
  const unsigned char* row = job.rows + static_cast<uint64_t>(index) * job.row_pitch;
  for (uint32_t at = 0; at < row_bytes; at += kCacheLine) _mm_prefetch(reinterpret_cast<const char*>(row + at), _MM_HINT_T0);
  _mm_prefetch(reinterpret_cast<const char*>(row + row_bytes - 1), _MM_HINT_T0);
}

template <RowFormat format>
int64_t pool_format(const BagJob& job, uint32_t* bad_bag) {
  const uint32_t row_bytes = job.dim * (format == RowFormat::kFp32 ? 4 : 2);
  const uint32_t end = load<uint32_t>(job.offsets + static_cast<uint64_t>(job.num_bags) * 4);
  for (uint32_t bag = 0; bag < job.num_bags; ++bag) {
    float* out = job.out + static_cast<uint64_t>(bag) * job.dim;
    for (uint32_t d = 0; d < job.dim; ++d) out[d] = 0.0f;
    const uint32_t from = load<uint32_t>(job.offsets + bag * 4ull);
    const uint32_t to = load<uint32_t>(job.offsets + (bag + 1ull) * 4);
    for (uint32_t i = from; i < to; ++i) {
      if (end - i > kPrefetchIds) prefetch_row(job, i + kPrefetchIds, end, row_bytes);
      const int64_t index = load_index(job, i);
      if (static_cast<uint64_t>(index) >= job.num_rows) {
        *bad_bag = bag;
        return i;
      }
      const unsigned char* row = job.rows + static_cast<uint64_t>(index) * job.row_pitch;
      const float weight = job.weights == nullptr ? 1.0f : load<float>(job.weights + i * 4ull);
      const __m256 weight_f32x8 = _mm256_set1_ps(weight);
      uint32_t d = 0;
      for (; d + 8 <= job.dim; d += 8) {
        _mm256_storeu_ps(out + d, _mm256_fmadd_ps(weight_f32x8, row_f32x8(row, format, d), _mm256_loadu_ps(out + d)));
      }
      for (; d < job.dim; ++d) out[d] = __builtin_fmaf(weight, row_value(row, format, d), out[d]);
    }
    if (job.mean && to > from) {
      for (uint32_t d = 0; d < job.dim; ++d) out[d] /= static_cast<float>(to - from);
    }
  }
  return -1;
}

int64_t pool_bags(const BagJob& job, uint32_t* bad_bag) {
  switch (job.format) {
    case RowFormat::kFp32: return pool_format<RowFormat::kFp32>(job, bad_bag);
    case RowFormat::kFp16: return pool_format<RowFormat::kFp16>(job, bad_bag);
    default: return pool_format<RowFormat::kBf16>(job, bad_bag);
  }
}

// A block of rows times one panel: 2 accumulators a row; 4 rows give 8 chains, which hide the latency of 2 FMA ports x 4 cycles.
template <uint32_t kRows>
void panel_rows(const float* x, uint32_t num_inputs, const float* panel, const float* bias, uint32_t stride, uint32_t width, float* y) {
  __m256 low[kRows], high[kRows];
  for (uint32_t r = 0; r < kRows; ++r) {
    low[r] = _mm256_loadu_ps(bias);
    high[r] = _mm256_loadu_ps(bias + 8);
  }
  for (uint32_t k = 0; k < num_inputs; ++k) {
    const __m256 low_f32x8 = _mm256_loadu_ps(panel + static_cast<uint64_t>(k) * kPanel);
    const __m256 high_f32x8 = _mm256_loadu_ps(panel + static_cast<uint64_t>(k) * kPanel + 8);
    for (uint32_t r = 0; r < kRows; ++r) {
      const __m256 x_f32x8 = _mm256_broadcast_ss(x + static_cast<uint64_t>(r) * num_inputs + k);
      low[r] = _mm256_fmadd_ps(x_f32x8, low_f32x8, low[r]);
      high[r] = _mm256_fmadd_ps(x_f32x8, high_f32x8, high[r]);
    }
  }
  for (uint32_t r = 0; r < kRows; ++r) {
    float values[kPanel];
    _mm256_storeu_ps(values, low[r]);
    _mm256_storeu_ps(values + 8, high[r]);
    for (uint32_t n = 0; n < width; ++n) y[static_cast<uint64_t>(r) * stride + n] = values[n];
  }
}

void fully_connected(const float* x, uint32_t num_rows, uint32_t num_inputs, const float* packed, const float* bias, uint32_t num_outputs,
                     float* y) {
  for (uint32_t n = 0; n < num_outputs; n += kPanel) {
    const float* panel = packed + static_cast<uint64_t>(n) * num_inputs;
    const uint32_t width = num_outputs - n < kPanel ? num_outputs - n : kPanel;
    uint64_t row = 0;
    for (; row + 4 <= num_rows; row += 4) {
      panel_rows<4>(x + row * num_inputs, num_inputs, panel, bias + n, num_outputs, width, y + row * num_outputs + n);
    }
    for (; row < num_rows; ++row)
      panel_rows<1>(x + row * num_inputs, num_inputs, panel, bias + n, num_outputs, width, y + row * num_outputs + n);
  }
}

float dot(const float* a, const float* b, uint32_t dim) {
  __m256 sum_f32x8 = _mm256_setzero_ps();
  uint32_t d = 0;
  for (; d + 8 <= dim; d += 8) sum_f32x8 = _mm256_fmadd_ps(_mm256_loadu_ps(a + d), _mm256_loadu_ps(b + d), sum_f32x8);
  float lanes[8];
  _mm256_storeu_ps(lanes, sum_f32x8);
  float sum = ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
  for (; d < dim; ++d) sum = __builtin_fmaf(a[d], b[d], sum);
  return sum;
}

}  // namespace

const KernelTable kAvx2Kernels = {"avx2", pool_bags, fully_connected, dot};

}  // namespace terabag
