#include "kernels/fully_connected_narrow/avx512_tiles.h"

namespace terabag {
namespace {

struct Bf16Step {
  using Sums = __m512;
  static inline Sums start(const NarrowJob& job, uint64_t column) { return _mm512_loadu_ps(job.bias + column); }
  static inline Sums add(Sums sums, __m512i x, __m512i weights) {
    return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(weights));
  }
  static inline __m512 finish(const NarrowJob&, uint64_t, uint64_t, Sums sums) { return sums; }
};

}  // namespace

namespace avx512 {
void fully_connected_bf16(const NarrowJob& job) { fully_connected_tiles<Bf16Step>(job); }
}  // namespace avx512
}  // namespace terabag
