#include "kernels/kernel_table.h"

#include <cstdlib>
#include <cstring>

namespace terabag {
namespace {
bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}
}  // namespace

const char* const* available_kernels() {
  static const char* const scalar_only[] = {"scalar", nullptr};
  static const char* const with_avx2[] = {"scalar", "avx2", nullptr};
  return has_avx2() ? with_avx2 : scalar_only;
}

const KernelTable* selected_kernels() {
  const char* forced = std::getenv("TERABAG_ISA");
  if (forced != nullptr && *forced != '\0') {
    if (std::strcmp(forced, "scalar") == 0) return &kScalarKernels;
#if defined(__x86_64__)
    if (std::strcmp(forced, "avx2") == 0 && has_avx2()) return &kAvx2Kernels;
#endif
    return nullptr;
  }
#if defined(__x86_64__)
  if (has_avx2()) return &kAvx2Kernels;
#endif
  return &kScalarKernels;
}

}  // namespace terabag
