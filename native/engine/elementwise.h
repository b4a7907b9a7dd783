#pragma once
#include <cstdint>

// Layers that pass over a row once or twice. They are a small part of any net's time, so that one portable version serves every instruction
// set, with the same bits on all. NaN and infinity propagate. Rows have dim values; out is one of the inputs or overlaps none.
namespace terabag {

// out[d] = x[d] + y[d]
void add(const float* x, const float* y, uint32_t dim, float* out);

// out[d] = x[d] * y[d]
void multiply(const float* x, const float* y, uint32_t dim, float* out);

// What closes a cross layer (DCNv2: Wang et al., 2021): out[d] = x0[d] * y[d] + x[d], with y the layer's linear map of x.
void multiply_add(const float* x0, const float* y, const float* x, uint32_t dim, float* out);

// out[d] = (x[d] - mean) / sqrt(variance + epsilon) * weight[d] + bias[d], with the mean and the biased variance of the row, in float64;
// the rest in float32. As torch.nn.LayerNorm over the last dim.
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, uint32_t dim, float* out);

}  // namespace terabag
