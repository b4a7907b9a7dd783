#include "kernels/kernel_table.h"

#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace terabag {
namespace {

bool runs_always() { return true; }

#if defined(__x86_64__)
// The compiler's builtins also ask whether the operating system saves the registers. They do not know f16c everywhere; its registers are
// avx2's.
bool has_avx2() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & bit_F16C) == 0) return false;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

// Leaves out what an instruction set has only on some CPUs.
KernelTable as_run_here(KernelTable table) {
#if defined(__x86_64__)
  if (table.fully_connected_bf16 == avx512::fully_connected_bf16 && !__builtin_cpu_supports("avx512bf16"))
    table.fully_connected_bf16 = nullptr;
  if (table.fully_connected_int8 == avx512::fully_connected_int8 && !__builtin_cpu_supports("avx512vnni"))
    table.fully_connected_int8 = nullptr;
#endif
  return table;
}

struct Candidate {
  KernelTable table;
  bool (*runs_here)();
};

// The kernels of this build, best last.
constexpr Candidate kCandidates[] = {
    {{"scalar", scalar::pool_bags, scalar::fully_connected, scalar::kPanelWidth, scalar::fully_connected_bf16, scalar::fully_connected_int8,
      scalar::dot_interaction},
     runs_always},
#if defined(__x86_64__)
    {{"avx2", avx2::pool_bags, avx2::fully_connected, avx2::kPanelWidth, nullptr, nullptr, avx2::dot_interaction}, has_avx2},
    {{"avx512", avx512::pool_bags, avx512::fully_connected, avx512::kPanelWidth, avx512::fully_connected_bf16, avx512::fully_connected_int8,
      avx512::dot_interaction},
     has_avx512},
#elif defined(__aarch64__)
    {{"neon", neon::pool_bags, neon::fully_connected, neon::kPanelWidth, nullptr, nullptr, neon::dot_interaction}, runs_always},
#endif
};
constexpr unsigned kNumCandidates = sizeof kCandidates / sizeof kCandidates[0];

struct Selection {
  const char* names[kNumCandidates + 1] = {};
  KernelTable table{};
  const KernelTable* selected = nullptr;

  Selection() {
    const char* forced = std::getenv("TERABAG_ISA");
    if (forced != nullptr && *forced == '\0') forced = nullptr;
    unsigned num_names = 0;
    for (const Candidate& candidate : kCandidates) {
      if (!candidate.runs_here()) continue;
      names[num_names++] = candidate.table.name;
      if (forced == nullptr || std::strcmp(forced, candidate.table.name) == 0) {
        table = as_run_here(candidate.table);
        selected = &table;
      }
    }
  }
};

const Selection& selection() {
  static const Selection once;
  return once;
}

}  // namespace

const char* const* available_kernels() { return selection().names; }
const KernelTable* selected_kernels() { return selection().selected; }

}  // namespace terabag
