// What this machine gives plain loops: {"what": "fma" | "bf16" | "int8"} for operations, {"what": "sequential" | "random"} for memory.
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "rounds.h"

namespace {

volatile float sink;

// Independent chains of multiply-adds in registers: more than latency times ports.
constexpr int kChains = 24;
template <typename Vector, typename Step>
void chains(Vector start, uint64_t steps, const Step& step) {
  Vector a[kChains];
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) a[c] = start;
  for (uint64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) a[c] = step(a[c]);
  }
  float sums[sizeof(Vector) / 4];
#pragma GCC unroll 24
  for (int c = 0; c < kChains; ++c) {
    std::memcpy(sums, &a[c], sizeof sums);
    sink = sink + sums[0];
  }
}

constexpr uint64_t kSteps = 10000;

int operations(const std::string& what) {
#if defined(__AVX512F__)
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
  if (what == "fma") {
    serve_rounds("\"loop\":\"24 chains of AVX-512 FMA\"", 24.0 * kSteps * 32 / 1e9,
                 [&] { chains(y, kSteps, [&](__m512 c) { return _mm512_fmadd_ps(c, x, y); }); });
    return 0;
  }
#if defined(__AVX512BF16__)
  if (what == "bf16") {
    const __m512bh h = (__m512bh)_mm512_set1_epi32(0x3c003c00);
    serve_rounds("\"loop\":\"24 chains of vdpbf16ps\"", 24.0 * kSteps * 64 / 1e9,
                 [&] { chains(y, kSteps, [&](__m512 c) { return _mm512_dpbf16_ps(c, h, h); }); });
    return 0;
  }
#endif
#if defined(__AVX512VNNI__)
  if (what == "int8") {
    const __m512i b = _mm512_set1_epi32(0x01010101);
    serve_rounds("\"loop\":\"24 chains of vpdpbusd\"", 24.0 * kSteps * 128 / 1e9,
                 [&] { chains(b, kSteps, [&](__m512i c) { return _mm512_dpbusd_epi32(c, b, b); }); });
    return 0;
  }
#endif
#elif defined(__FMA__)
  if (what == "fma") {
    const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
    serve_rounds("\"loop\":\"24 chains of AVX2 FMA\"", 24.0 * kSteps * 16 / 1e9,
                 [&] { chains(y, kSteps, [&](__m256 c) { return _mm256_fmadd_ps(c, x, y); }); });
    return 0;
  }
#endif
  std::cout << "{\"absent\":\"this CPU has no instruction for " << what << "\"}" << std::endl;
  return 0;
}

// Reads with all loads of a line independent, so that only the memory limits.
float read(const unsigned char* from, uint64_t bytes) {
  float sums[16] = {};
  for (uint64_t at = 0; at < bytes; at += 64) {
    for (int i = 0; i < 16; ++i) {
      float value;
      std::memcpy(&value, from + at + i * 4, 4);
      sums[i] += value;
    }
  }
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

template <int locality>
void random_rows(const unsigned char* memory, const std::vector<uint64_t>& starts, uint64_t row_bytes, size_t ahead) {
  for (size_t i = 0; i < starts.size(); ++i) {
    if (i + ahead < starts.size()) {
      const char* row = reinterpret_cast<const char*>(memory + starts[i + ahead]);
      for (uint64_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(row + at, 0, locality);
      __builtin_prefetch(row + row_bytes - 1, 0, locality);
    }
    sink = read(memory + starts[i] / 64 * 64, (row_bytes + 63) / 64 * 64);
  }
}

int memory_reads(const std::string& task, const std::string& what) {
  const uint64_t row_bytes = static_cast<uint64_t>(number(task, "rowBytes"));
  const uint64_t bytes = std::max<uint64_t>(static_cast<uint64_t>(number(task, "bytes")) / 4096, 1024) * 4096;
  void* space = mmap(nullptr, bytes + (4 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (space == MAP_FAILED) return 1;
  auto* memory = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(space) + (2 << 20) - 1) & ~((2ull << 20) - 1));
  madvise(memory, bytes + 4096, MADV_HUGEPAGE);
  std::memset(memory, 1, bytes + 4096);
  if (what == "sequential") {
    serve_rounds("\"read\":\"in order, all of the table's bytes\"", static_cast<double>(bytes) / row_bytes,
                 [&] { sink = read(memory, bytes); });
    return 0;
  }
  std::vector<uint64_t> starts(1 << 21);
  uint64_t state = 88172645463325252ull;
  for (uint64_t& start : starts) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    start = state % (bytes / row_bytes) * row_bytes;
  }
  // The best of these distances and levels, chosen before the rounds.
  const uint64_t lines = (row_bytes + 63) / 64;
  double best = 0;
  size_t best_ahead = 0;
  bool best_l2 = false;
  for (const bool l2 : {false, true}) {
    for (const uint64_t distance : {32, 64, 128, 256}) {
      const size_t ahead = std::max<uint64_t>(1, distance / lines);
      const double started = now_ns();
      l2 ? random_rows<2>(memory, starts, row_bytes, ahead) : random_rows<3>(memory, starts, row_bytes, ahead);
      const double took = now_ns() - started;
      if (best == 0 || took < best) best = took, best_ahead = ahead, best_l2 = l2;
    }
  }
  serve_rounds("\"read\":\"random rows, best prefetch: " + std::to_string(best_ahead) + " rows to " + (best_l2 ? "L2" : "L1") + "\"",
               static_cast<double>(starts.size()), [&] {
                 best_l2 ? random_rows<2>(memory, starts, row_bytes, best_ahead) : random_rows<3>(memory, starts, row_bytes, best_ahead);
               });
  return 0;
}

}  // namespace

int main(int, char** arguments) {
  const std::string task = arguments[1], what = field(task, "what");
  return what == "sequential" || what == "random" ? memory_reads(task, what) : operations(what);
}
