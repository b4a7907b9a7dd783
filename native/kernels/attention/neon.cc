#include "kernels/attention/loops.h"

namespace terabag::neon {

const AttentionKernels attention = {fold_query, pack_keys, pack_values, sum_rows};

}  // namespace terabag::neon
