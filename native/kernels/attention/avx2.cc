#include "kernels/attention/loops.h"

namespace terabag::avx2 {

const AttentionKernels attention = {fold_query, pack_keys, pack_values, sum_rows};

}  // namespace terabag::avx2
