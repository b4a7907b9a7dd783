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
// Read from the CPU itself: __builtin_cpu_supports is answered by the compiler's run-time library, and that of zig's says no to everything.
struct CpuFeatures {
  bool avx2 = false;
  bool avx512 = false;
  bool avx512_bf16 = false;
  bool avx512_vnni = false;

  CpuFeatures() {
    struct {
      unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    } basic, extended, more;
    __get_cpuid(1, &basic.eax, &basic.ebx, &basic.ecx, &basic.edx);
    if ((basic.ecx & bit_OSXSAVE) == 0) return;
    __get_cpuid_count(7, 0, &extended.eax, &extended.ebx, &extended.ecx, &extended.edx);
    if (extended.eax >= 1) __get_cpuid_count(7, 1, &more.eax, &more.ebx, &more.ecx, &more.edx);
    // What the operating system saves: XMM and YMM, then the mask registers and both parts of ZMM.
    unsigned saved = 0, unused = 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
    const unsigned ymm = 0x6, zmm = 0xe6;
    const auto all = [](unsigned found, unsigned wanted) { return (found & wanted) == wanted; };
    avx2 = all(saved, ymm) && all(basic.ecx, bit_AVX | bit_FMA | bit_F16C) && all(extended.ebx, bit_AVX2);
    avx512 = avx2 && all(saved, zmm) && all(extended.ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
    avx512_vnni = avx512 && all(extended.ecx, bit_AVX512VNNI);
    avx512_bf16 = avx512 && all(more.eax, bit_AVX512BF16);
  }
};

const CpuFeatures& cpu() {
  static const CpuFeatures once;
  return once;
}
bool has_avx2() { return cpu().avx2; }
bool has_avx512() { return cpu().avx512; }
#endif

// Leaves out what an instruction set has only on some CPUs.
KernelTable as_run_here(KernelTable table) {
#if defined(__x86_64__)
  if (table.fully_connected_bf16 == avx512::fully_connected_bf16 && !cpu().avx512_bf16) table.fully_connected_bf16 = nullptr;
  if (table.fully_connected_int8 == avx512::fully_connected_int8 && !cpu().avx512_vnni) table.fully_connected_int8 = nullptr;
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
      scalar::dot_interaction, scalar::activate, scalar::softmax, &scalar::attention},
     runs_always},
#if defined(__x86_64__)
    {{"avx2", avx2::pool_bags, avx2::fully_connected, avx2::kPanelWidth, nullptr, nullptr, avx2::dot_interaction, avx2::activate,
      avx2::softmax, &avx2::attention},
     has_avx2},
    {{"avx512", avx512::pool_bags, avx512::fully_connected, avx512::kPanelWidth, avx512::fully_connected_bf16, avx512::fully_connected_int8,
      avx512::dot_interaction, avx512::activate, avx512::softmax, &avx512::attention},
     has_avx512},
#elif defined(__aarch64__)
    {{"neon", neon::pool_bags, neon::fully_connected, neon::kPanelWidth, nullptr, nullptr, neon::dot_interaction, neon::activate,
      neon::softmax, &neon::attention},
     runs_always},
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
