#pragma once
#include <cstdint>
#include <vector>

#include "engine/layer.h"

namespace terabag {

// Layers that read whole sequences but take only a step or two for each of their values: one item's part of one of them into out, whose
// rows are out_stride floats apart. As in elementwise.h, one portable version has the same bits everywhere; NaN and infinity propagate. A
// sequence without positions pools to zeros. check_layer took the layer.
void run_sequence(const Layer& layer, const std::vector<Value>& values, uint64_t item, float* out, uint64_t out_stride);

}  // namespace terabag
