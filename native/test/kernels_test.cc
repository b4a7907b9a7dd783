// Kernels of every instruction set that runs here against a float64 reference, with every buffer ending at, or starting behind, a page that
// may not be touched. No Node: it also runs under an emulator. TERABAG_TEST_SEED repeats a run.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/bag_reads.h"
#include "kernels/kernel_table.h"

namespace terabag {
namespace {

std::mt19937_64 random_bits;
uint64_t below(uint64_t limit) { return random_bits() % limit; }
float uniform() { return static_cast<float>(below(1 << 24)) / (1 << 23) - 1.0f; }

std::string current;  // the case in work
void fail(const std::string& what) {
  std::fprintf(stderr, "%s: %s\n", current.c_str(), what.c_str());
  std::exit(1);
}
void check(bool sound, const std::string& what) {
  if (!sound) fail(what);
}

// Bytes between two pages without access: at the end of the space, or at its start.
class Guarded {
 public:
  Guarded(size_t bytes, bool at_end) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    pages_ = (bytes + page_ - 1) / page_ + 2;
    space_ = static_cast<unsigned char*>(mmap(nullptr, pages_ * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    check(space_ != MAP_FAILED, "no memory");
    mprotect(space_, page_, PROT_NONE);
    mprotect(space_ + (pages_ - 1) * page_, page_, PROT_NONE);
    data = at_end ? space_ + (pages_ - 1) * page_ - bytes : space_ + page_;
  }
  ~Guarded() { munmap(space_, pages_ * page_); }
  Guarded(const Guarded&) = delete;
  float* floats() const { return reinterpret_cast<float*>(data); }

  unsigned char* data;

 private:
  size_t page_, pages_;
  unsigned char* space_;
};

struct Isa {
  const char* name;
  PoolBags* pool_bags;
  FullyConnected* fully_connected;
  uint32_t panel_width;
  DotInteraction* dot_interaction;
  Activate* activate;
  Softmax* softmax;
  const AttentionKernels* attention;
};

#if defined(__x86_64__)
bool runs_here(const char* isa) {
  for (const char* const* name = available_kernels(); *name != nullptr; ++name)
    if (std::strcmp(*name, isa) == 0) return true;
  return false;
}
#endif

std::vector<Isa> isas() {
  std::vector<Isa> all = {{"scalar", scalar::pool_bags, scalar::fully_connected, scalar::kPanelWidth, scalar::dot_interaction,
                           scalar::activate, scalar::softmax, &scalar::attention}};
#if defined(__x86_64__)
  if (runs_here("avx2"))
    all.push_back({"avx2", avx2::pool_bags, avx2::fully_connected, avx2::kPanelWidth, avx2::dot_interaction, avx2::activate, avx2::softmax,
                   &avx2::attention});
  if (runs_here("avx512"))
    all.push_back({"avx512", avx512::pool_bags, avx512::fully_connected, avx512::kPanelWidth, avx512::dot_interaction, avx512::activate,
                   avx512::softmax, &avx512::attention});
#elif defined(__aarch64__)
  all.push_back({"neon", neon::pool_bags, neon::fully_connected, neon::kPanelWidth, neon::dot_interaction, neon::activate, neon::softmax,
                 &neon::attention});
#endif
  return all;
}

// Value d of a row by the definition of its format, in float64, and the magnitude of what it is added up from.
struct Exact {
  double value, magnitude;
};
Exact value_of(const unsigned char* row, RowFormat format, uint32_t dim, uint32_t d) {
  if (!is_quantized(format)) {
    const double value = row_value(row, format, d);
    return {value, std::abs(value)};
  }
  const uint32_t q = format == RowFormat::kInt4 ? row[d / 2] >> d % 2 * 4 & 15 : row[d];
  const unsigned char* behind = row + (format == RowFormat::kInt4 ? (dim + 1) / 2 : dim);
  const bool floats = format == RowFormat::kInt8;
  const double scale = floats ? load<float>(behind) : half_to_float(load<uint16_t>(behind));
  const double bias = floats ? load<float>(behind + 4) : half_to_float(load<uint16_t>(behind + 2));
  return {scale * q + bias, std::abs(scale) * q + std::abs(bias)};
}

void fill_row(unsigned char* row, RowFormat format, uint32_t dim, bool special) {
  const uint64_t bytes = bytes_per_row(format, dim);
  for (uint64_t i = 0; i < bytes; ++i) row[i] = static_cast<unsigned char>(random_bits());
  const auto put = [&](uint64_t at, auto value) { std::memcpy(row + at, &value, sizeof value); };
  const float specials[] = {NAN, INFINITY, -INFINITY, -0.0f};
  if (format == RowFormat::kFp32) {
    for (uint32_t d = 0; d < dim; ++d) put(d * 4, special && below(9) == 0 ? specials[below(4)] : uniform());
  } else if (format == RowFormat::kInt8) {
    put(dim, special ? specials[below(4)] : uniform());
    put(dim + 4, uniform());
  } else if (!special) {
    // 16-bit values below 2, scales and biases too.
    for (uint64_t at = is_quantized(format) ? bytes - 4 : 0; at < bytes; at += 2) {
      put(at, static_cast<uint16_t>((random_bits() & 0x8000) | (format == RowFormat::kBf16 ? 0x3c00 + below(0x380) : below(0x3c00))));
    }
  }
}

// `scale`: the sum of the finite terms' magnitudes.
bool close_enough(float got, double want, double scale, double terms) {
  // Whether a partial sum of finite terms overflows depends on the order, and where it does, a term of the other infinity makes it a NaN.
  const bool may_overflow = scale * terms > 3e38;
  if (std::isnan(want)) return std::isnan(got);
  if (std::isinf(want)) return got == want || (may_overflow && std::isnan(got));
  if (may_overflow) return true;
  return std::abs(got - want) <= (terms + 4) * 6e-8 * scale + 1e-40;
}

struct BagCase {
  std::vector<std::unique_ptr<Guarded>> buffers;
  std::vector<BagJob> jobs;
  unsigned char* buffer(size_t bytes) {
    buffers.push_back(std::make_unique<Guarded>(bytes, below(2) == 0));
    return buffers.back()->data;
  }
};

// A distance from none to one that no ring of rows can hold.
Prefetch any_prefetch() {
  const uint32_t corners[] = {0, 1, 5000, 65536, UINT32_MAX};
  return {below(2) == 0 ? corners[below(5)] : static_cast<uint32_t>(below(300)), below(2) == 0};
}

uint32_t any_dim() {
  switch (below(8)) {
    case 0: return static_cast<uint32_t>(500 + below(4500));               // up to 282 cache lines, parts of a row
    case 1: return static_cast<uint32_t>(4 * (1 + below(75)) + below(3));  // a few values more than whole vectors
    default: return static_cast<uint32_t>(1 + below(300));
  }
}

// Which of two NaNs a sum keeps depends on the order in which the compiler has them added.
bool same_bits(const float* one, const float* other, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    if (std::memcmp(one + i, other + i, sizeof(float)) != 0 && !(std::isnan(one[i]) && std::isnan(other[i]))) return false;
  }
  return true;
}

// Every bag as a job of its own, fetched at another distance, gives the same bits as all jobs together.
void test_bags_alone(const Isa& isa, const std::vector<BagJob>& jobs) {
  for (const BagJob& job : jobs) {
    const uint64_t floats = floats_per_bag(job);
    std::vector<float> alone(floats);
    for (uint32_t b = 0; b < job.num_bags; ++b) {
      const uint64_t before = job.offsets[b] - job.offsets[0];
      BagJob bag = job;
      bag.indices += before * job.index_bytes;
      if (bag.weights != nullptr) bag.weights += before * 4;
      bag.offsets += b;
      bag.num_bags = 1;
      bag.prefetch = any_prefetch();
      bag.out = alone.data();
      BadIndex bad{};
      check(isa.pool_bags(&bag, 1, &bad) == KernelStatus::kOk, "refused good ids of a bag alone");
      check(same_bits(alone.data(), job.out + b * floats, static_cast<uint32_t>(floats)),
            "bag " + std::to_string(b) + " has other bits alone");
    }
  }
}

void test_bags(const Isa& isa, int number) {
  BagCase bags;
  const uint64_t num_jobs = 1 + below(6);
  for (uint64_t j = 0; j < num_jobs; ++j) {
    BagJob job{};
    job.format = static_cast<RowFormat>(below(kNumRowFormats));
    job.dim = any_dim();
    job.num_rows = 1 + below(20);
    const uint64_t row_bytes = bytes_per_row(job.format, job.dim);
    job.row_pitch = row_bytes * (1 + below(3));
    const uint64_t bytes = (job.num_rows - 1) * job.row_pitch + row_bytes, shift = below(4);
    unsigned char* rows = bags.buffer(bytes + shift) + (below(2) == 0 ? shift : 0);
    job.rows = rows;
    const bool special = below(5) == 0;
    for (uint64_t row = 0; row < job.num_rows; ++row) fill_row(rows + row * job.row_pitch, job.format, job.dim, special);
    job.num_bags = static_cast<uint32_t>(below(7));
    auto* offsets = reinterpret_cast<uint32_t*>(bags.buffer((job.num_bags + 1) * 4));
    offsets[0] = static_cast<uint32_t>(below(100));
    // Now and then a bag longer than the ring of rows that are fetched ahead, and a job of more rows than that in short bags.
    const uint64_t most = job.dim > 100 ? 40 : below(20) == 0 ? 4000 : below(20) == 0 ? 400 : 40;
    for (uint32_t b = 0; b < job.num_bags; ++b) offsets[b + 1] = offsets[b] + static_cast<uint32_t>(below(3) == 0 ? 0 : below(most));
    job.offsets = offsets;
    const uint64_t count = offsets[job.num_bags] - offsets[0];
    job.index_bytes = below(2) == 0 ? 4 : 8;
    const uint64_t index_shift = below(job.index_bytes), weight_shift = below(4);
    unsigned char* indices = bags.buffer(count * job.index_bytes + index_shift) + index_shift;
    for (uint64_t i = 0; i < count; ++i) {
      const int64_t id = static_cast<int64_t>(below(job.num_rows));
      std::memcpy(indices + i * job.index_bytes, &id, job.index_bytes);
    }
    job.indices = indices;
    if (below(2) == 0) {
      unsigned char* weights = bags.buffer(count * 4 + weight_shift) + weight_shift;
      for (uint64_t i = 0; i < count; ++i) {
        const float weight = uniform();
        std::memcpy(weights + i * 4, &weight, 4);
      }
      job.weights = weights;
    }
    job.pooling = kPoolings[below(sizeof kPoolings / sizeof kPoolings[0])].pooling;
    job.divisor = below(2) == 0;
    job.prefetch = any_prefetch();
    job.out = reinterpret_cast<float*>(bags.buffer(job.num_bags * floats_per_bag(job) * 4));
    bags.jobs.push_back(job);
  }
  BadIndex bad{};
  check(isa.pool_bags(bags.jobs.data(), static_cast<uint32_t>(num_jobs), &bad) == KernelStatus::kOk, "refused good ids");
  for (const BagJob& job : bags.jobs) {
    uint64_t at = 0;
    for (uint32_t b = 0; b < job.num_bags; ++b) {
      const uint32_t count = job.offsets[b + 1] - job.offsets[b];
      double weights = 0;
      float rounded_weights = 0;
      for (uint64_t i = at; i < at + count; ++i) weights += load_weight(job, i), rounded_weights += load_weight(job, i);
      const bool weighted_mean = job.pooling == Pooling::kWeightedMean;
      const float* out = job.out + b * floats_per_bag(job);
      if (job.divisor) check(close_enough(out[job.dim], weighted_mean ? weights : count, count, count), "another divisor");
      const double given = weighted_mean && !job.divisor ? rounded_weights : 1;
      const double divisor = job.pooling == Pooling::kMean && !job.divisor && count > 0 ? count : given == 0 ? 1 : given;
      for (uint32_t d = 0; d < job.dim; ++d) {
        double sum = 0, scale = 0, maximum = 0;
        for (uint64_t i = at; i < at + count; ++i) {
          const unsigned char* row = job.rows + static_cast<uint64_t>(load_index(job, i)) * job.row_pitch;
          const Exact exact = value_of(row, job.format, job.dim, d);
          const double weight = job.weights == nullptr ? 1.0 : load_weight(job, i);
          const double value = exact.value * weight;
          sum += value;
          if (i == at || value > maximum || std::isnan(value)) maximum = std::isnan(maximum) ? maximum : value;
          if (std::isfinite(exact.magnitude)) scale += exact.magnitude * std::abs(weight);
        }
        const double want = job.pooling == Pooling::kMax ? maximum : given == 0 && weighted_mean ? 0 : sum / divisor;
        if (!close_enough(out[d], want, scale / std::abs(divisor), count)) {
          char text[160];
          std::snprintf(text, sizeof text, "format %u, bag %u of %u ids, value %u of %u: %.9g, want %.9g",
                        static_cast<unsigned>(job.format), b, count, d, job.dim, out[d], want);
          fail(text);
        }
      }
      at += count;
    }
  }
  test_bags_alone(isa, bags.jobs);
  // A bad id somewhere, and others behind it: the first has to be told.
  std::vector<uint32_t> with_ids;
  for (uint32_t j = 0; j < num_jobs; ++j) {
    if (bags.jobs[j].offsets[bags.jobs[j].num_bags] > bags.jobs[j].offsets[0]) with_ids.push_back(j);
  }
  if (with_ids.empty() || number % 2 == 0) return;
  const uint32_t j = with_ids[below(with_ids.size())];
  BagJob& job = bags.jobs[j];
  const uint64_t position = below(job.offsets[job.num_bags] - job.offsets[0]);
  const int64_t wrong[] = {static_cast<int64_t>(job.num_rows), -1, job.index_bytes == 4 ? INT32_MAX : INT64_MAX,
                           job.index_bytes == 4 ? INT32_MIN : INT64_MIN};
  const int64_t id = wrong[below(4)];
  std::memcpy(const_cast<unsigned char*>(job.indices) + position * job.index_bytes, &id, job.index_bytes);
  const uint64_t all_behind = below(3);
  for (uint32_t later = j; all_behind != 0 && later < num_jobs; ++later) {
    const BagJob& other = bags.jobs[later];
    for (uint64_t at = later == j ? position + 1 : 0; at < other.offsets[other.num_bags] - other.offsets[0]; ++at) {
      const int64_t worse = -2 - static_cast<int64_t>(below(100));
      if (all_behind == 1 || below(8) == 0)
        std::memcpy(const_cast<unsigned char*>(other.indices) + at * other.index_bytes, &worse, other.index_bytes);
    }
  }
  check(isa.pool_bags(bags.jobs.data(), static_cast<uint32_t>(num_jobs), &bad) == KernelStatus::kIndexOutOfRange, "took a bad id");
  const uint64_t in_bag = job.offsets[0] + position;
  check(bad.job == j && bad.position == position && bad.value == id && job.offsets[bad.bag] <= in_bag && in_bag < job.offsets[bad.bag + 1],
        "named another bad id");
}

void test_fully_connected(const Isa& isa) {
  const auto rows = static_cast<uint32_t>(1 + below(40)), inputs = static_cast<uint32_t>(1 + below(300)),
             outputs = static_cast<uint32_t>(1 + below(300));
  const uint64_t panels = (outputs + isa.panel_width - 1) / isa.panel_width;
  const uint64_t x_stride = inputs + below(9), y_stride = outputs + below(9);
  // Now and then only the last inputs of the panels, as when the sum of the first ones is the bias.
  const auto panel_inputs = static_cast<uint32_t>(inputs + (below(2) == 0 ? below(50) : 0));
  // One for all rows, or one for each.
  const uint64_t biases = below(2) == 0 ? 1 : rows, bias_stride = biases == 1 ? 0 : panels * isa.panel_width;
  const uint64_t packed_floats = ((panels - 1) * panel_inputs + inputs) * isa.panel_width;
  const Guarded x(((rows - 1) * x_stride + inputs) * 4, below(2) == 0), packed(packed_floats * 4, below(2) == 0),
      bias(biases * panels * isa.panel_width * 4, below(2) == 0), y(((rows - 1) * y_stride + outputs) * 4, below(2) == 0);
  for (uint64_t i = 0; i < (rows - 1) * x_stride + inputs; ++i) x.floats()[i] = uniform();
  std::memset(packed.data, 0, packed_floats * 4);
  std::memset(bias.data, 0, biases * panels * isa.panel_width * 4);
  const auto weight = [&](uint64_t n, uint64_t k) -> float& {
    return packed.floats()[n / isa.panel_width * panel_inputs * isa.panel_width + k * isa.panel_width + n % isa.panel_width];
  };
  for (uint64_t n = 0; n < outputs; ++n) {
    for (uint64_t row = 0; row < biases; ++row) bias.floats()[row * bias_stride + n] = uniform();
    for (uint64_t k = 0; k < inputs; ++k) weight(n, k) = uniform();
  }
  const bool relu = below(2) == 0;
  isa.fully_connected(
      {x.floats(), x_stride, rows, inputs, panel_inputs, packed.floats(), bias.floats(), outputs, relu, y.floats(), y_stride, bias_stride});
  for (uint64_t row = 0; row < rows; ++row) {
    for (uint64_t n = 0; n < outputs; ++n) {
      double sum = bias.floats()[row * bias_stride + n], scale = std::abs(sum);
      for (uint64_t k = 0; k < inputs; ++k) {
        const double term = static_cast<double>(x.floats()[row * x_stride + k]) * weight(n, k);
        sum += term;
        scale += std::abs(term);
      }
      const double want = relu && sum < 0 ? 0 : sum;
      check(close_enough(y.floats()[row * y_stride + n], want, scale, inputs),
            "row " + std::to_string(row) + ", output " + std::to_string(n));
    }
  }
}

void test_interaction(const Isa& isa) {
  const auto count = static_cast<uint32_t>(1 + below(30)), dim = static_cast<uint32_t>(1 + below(300));
  const auto items = static_cast<uint32_t>(below(5));
  const bool diagonal = below(2) == 0;
  std::vector<std::unique_ptr<Guarded>> buffers;
  std::vector<const float*> vectors;
  std::vector<uint64_t> strides;
  for (uint32_t v = 0; v < count; ++v) {
    strides.push_back(below(3) == 0 ? 0 : dim + below(20));
    const uint64_t length = items == 0 ? 0 : (items - 1) * strides[v] + dim;
    buffers.push_back(std::make_unique<Guarded>(length * 4, below(2) == 0));
    for (uint64_t d = 0; d < length; ++d) buffers.back()->floats()[d] = uniform();
    vectors.push_back(buffers.back()->floats());
  }
  const uint64_t width = dim + static_cast<uint64_t>(count) * (diagonal ? count + 1 : count - 1) / 2;
  const uint64_t out_stride = width + below(20);
  const Guarded out((items == 0 ? 0 : (items - 1) * out_stride + width) * 4, below(2) == 0);
  for (uint64_t at = 0; items > 0 && at < (items - 1) * out_stride + width; ++at) out.floats()[at] = -7.0f;
  const Guarded scratch(interaction_scratch(count, dim) * 4, true);
  for (uint64_t at = 0; at < interaction_scratch(count, dim); ++at) scratch.floats()[at] = NAN;
  isa.dot_interaction({vectors.data(), strides.data(), count, dim, diagonal, items, out.floats(), out_stride, scratch.floats()});
  for (uint64_t item = 0; item < items; ++item) {
    const auto x = [&](uint32_t v) { return vectors[v] + item * strides[v]; };
    const float* got = out.floats() + item * out_stride;
    check(std::memcmp(got, x(0), dim * 4) == 0, "first vector");
    uint64_t at = dim;
    for (uint32_t i = 0; i < count; ++i) {
      for (uint32_t j = 0; j < (diagonal ? i + 1 : i); ++j, ++at) {
        double sum = 0, scale = 0;
        for (uint32_t d = 0; d < dim; ++d) {
          sum += static_cast<double>(x(i)[d]) * x(j)[d];
          scale += std::abs(static_cast<double>(x(i)[d]) * x(j)[d]);
        }
        check(close_enough(got[at], sum, scale, dim),
              "item " + std::to_string(item) + ", pair " + std::to_string(i) + ", " + std::to_string(j));
      }
    }
    for (; item + 1 < items && at < out_stride; ++at) check(got[at] == -7.0f, "between the items");
  }
}

constexpr uint32_t kNumFunctions = sizeof kMaxUlps / sizeof kMaxUlps[0];

// The definitions, rearranged only where float64 would cancel.
double exactly(Function function, double x) {
  switch (function) {
    case Function::kExp: return std::exp(x);
    case Function::kSigmoid: return 1 / (1 + std::exp(-x));
    case Function::kTanh: return std::tanh(x);
    case Function::kSilu: return x == -INFINITY ? -0.0 : x / (1 + std::exp(-x));
    case Function::kGelu: return x == -INFINITY ? -0.0 : x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case Function::kGeluTanh: return x == -INFINITY ? -0.0 : x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return NAN;
}

float of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void check_value(Function function, float x, float got) {
  const double want = exactly(function, x), most = kMaxUlps[static_cast<uint32_t>(function)];
  int exponent = 0;
  std::frexp(want, &exponent);
  const double ulp = std::ldexp(1.0, std::max(exponent - 24, -149));
  const bool infinite = std::abs(want) >= 0x1.ffffffp127;
  const bool sound = std::isnan(want) ? std::isnan(got)
                     : infinite       ? got == static_cast<float>(want)
                                      : std::signbit(got) == std::signbit(want) && std::abs(got - want) <= most * ulp;
  if (sound) return;
  char text[120];
  std::snprintf(text, sizeof text, "function %u of %a: %a, want %a", static_cast<unsigned>(function), x, got, want);
  fail(text);
}

// FNV-1a of what functions gave; all NaNs are one.
struct Hash {
  uint64_t value = 14695981039346656037u;
  void add(float result) {
    uint32_t bits = 0x7fc00000;
    if (!std::isnan(result)) std::memcpy(&bits, &result, sizeof bits);
    value = (value ^ bits) * 1099511628211u;
  }
};

// Floats of all magnitudes, from zero to NaN, one in ten thousand. Vector kernels, which all fuse, give the same bits.
void test_functions(const Isa& isa) {
  static uint64_t fused = 0;
  Hash hash;
  constexpr uint64_t kStep = 10007, kCount = 1 << 12;
  std::vector<float> x(kCount), y;
  for (uint32_t f = 0; f < kNumFunctions; ++f) {
    const auto function = static_cast<Function>(f);
    uint64_t bits = below(kStep);
    while (bits < 1ull << 32) {
      for (float& value : x) {
        value = of_bits(static_cast<uint32_t>(bits));
        bits += kStep;
      }
      y = x;
      isa.activate({function, y.data(), 1, kCount, kCount});
      for (uint64_t i = 0; i < kCount; ++i) {
        check_value(function, x[i], y[i]);
        hash.add(y[i]);
      }
    }
    for (const float value : {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f, -1e-45f, 88.7228f, 88.7229f, 9.1f, 20.0f}) {
      float got = value;
      isa.activate({function, &got, 1, 1, 1});
      check_value(function, value, got);
    }
  }
  if (std::strcmp(isa.name, "scalar") == 0) return;
  check(fused == 0 || fused == hash.value, "functions have other bits than those of another instruction set");
  fused = hash.value;
}

void test_activation(const Isa& isa) {
  const uint64_t rows = below(5), dim = below(4) == 0 ? 1 : 1 + below(100), stride = dim + (below(2) == 0 ? 0 : below(20));
  const uint64_t length = rows == 0 ? 0 : (rows - 1) * stride + dim;
  const auto function = static_cast<Function>(below(kNumFunctions));
  const Guarded values(length * 4, below(2) == 0);
  std::vector<float> before(length);
  for (float& value : before) value = below(9) == 0 ? of_bits(static_cast<uint32_t>(random_bits())) : uniform() * 8;
  if (length > 0) std::memcpy(values.data, before.data(), length * 4);
  isa.activate({function, values.floats(), rows, dim, stride});
  for (uint64_t i = 0; i < length; ++i) {
    float alone = before[i];
    if (i % stride < dim) isa.activate({function, &alone, 1, 1, 1});
    check(same_bits(&alone, values.floats() + i, 1), "value " + std::to_string(i) + " has other bits alone, or was not to be touched");
    if (i % stride < dim) check_value(function, before[i], values.floats()[i]);
  }
}

// Rows of one size, of scores as they are and of such as need their largest one taken away first.
void test_softmax(const Isa& isa) {
  const uint64_t rows = below(5), dim = below(20) == 0 ? 1 + below(1000) : 1 + below(100), stride = dim + (below(2) == 0 ? 0 : below(20));
  const uint64_t length = rows == 0 ? 0 : (rows - 1) * stride + dim;
  const Guarded values(length * 4, below(2) == 0);
  const float spread = below(3) == 0 ? 200.0f : 8.0f, middle = below(3) == 0 ? uniform() * 1e4f : 0.0f;
  std::vector<float> before(length);
  for (float& value : before) value = below(40) == 0 ? -INFINITY : middle + uniform() * spread;
  const bool spoiled = length > 0 && below(10) == 0;
  if (spoiled) before[below(length)] = below(2) == 0 ? NAN : INFINITY;
  if (length > 0) std::memcpy(values.data, before.data(), length * 4);
  isa.softmax({values.floats(), rows, dim, stride});
  for (uint64_t row = 0; row < rows; ++row) {
    const float *x = before.data() + row * stride, *y = values.floats() + row * stride;
    double most = -INFINITY, sum = 0;
    for (uint64_t d = 0; d < dim; ++d) most = std::max(most, double{x[d]});
    for (uint64_t d = 0; d < dim; ++d) sum += std::exp(x[d] - most);
    // Of the power, the sum and what is multiplied with; a difference of floats is rounded, by half a unit of up to 2^14.
    for (uint64_t d = 0; d < dim; ++d) {
      const double want = std::exp(x[d] - most) / sum, bound = (2e-6 + std::min(most - x[d], 1e3) * 0x1p-24) * want + 0x1p-148;
      check(std::isnan(want) ? std::isnan(y[d]) : std::abs(y[d] - want) <= bound, "softmax of " + std::to_string(dim) + ": value " +
                                                                                      std::to_string(d) + " is " + std::to_string(y[d]) +
                                                                                      ", want " + std::to_string(want));
    }
    const float* gap = y + dim;
    if (row + 1 < rows) check(same_bits(gap, x + dim, stride - dim), "softmax wrote between its rows");
  }
}

// What a kernel gives, and the scalar one, whose bits it has to have.
class AttentionOut {
 public:
  explicit AttentionOut(uint64_t length) : got(length * 4, below(2) == 0), plain(length, 9.0f) {
    for (uint64_t i = 0; i < length; ++i) got.floats()[i] = 7.0f;
  }
  // want: of value i, and the magnitude of what it is added up from.
  template <typename Want>
  void check_all(const char* what, uint64_t terms, Want want) const {
    for (uint64_t i = 0; i < plain.size(); ++i) {
      const Exact exact = want(i);
      check(close_enough(got.floats()[i], exact.value, exact.magnitude, static_cast<double>(terms)),
            std::string(what) + ": value " + std::to_string(i) + " is " + std::to_string(got.floats()[i]) + ", want " +
                std::to_string(exact.value));
    }
    check(same_bits(got.floats(), plain.data(), plain.size()), std::string(what) + " has other bits than the scalar kernel");
  }

  Guarded got;
  std::vector<float> plain;
};

void fill(const Guarded& values, uint64_t length) {
  for (uint64_t i = 0; i < length; ++i) values.floats()[i] = uniform();
}

void test_fold_query(const Isa& isa) {
  const auto dim = static_cast<uint32_t>(1 + below(70)), panels = static_cast<uint32_t>(1 + below(4));
  const uint64_t width = isa.panel_width, length = dim * panels * width;
  const Guarded keys(length * 4, below(2) == 0), products(length * 4, below(2) == 0), query(dim * 4, below(2) == 0);
  fill(keys, length);
  fill(products, length);
  fill(query, dim);
  AttentionOut out(length);
  FoldQueryJob job{keys.floats(), products.floats(), query.floats(), dim, panels, isa.panel_width, out.got.floats()};
  isa.attention->fold_query(job);
  job.out = out.plain.data();
  scalar::attention.fold_query(job);
  out.check_all("fold_query", 2, [&](uint64_t i) {
    const double key = keys.floats()[i], product = double{query.floats()[i / width % dim]} * products.floats()[i];
    return Exact{key + product, std::abs(key) + std::abs(product)};
  });
}

// Rows with gaps between them, as heads of one sequence have them.
void test_pack_rows(const Isa& isa) {
  const auto dim = static_cast<uint32_t>(1 + below(70));
  const uint64_t positions = 1 + below(80), stride = dim + (below(2) == 0 ? 0 : below(40)), width = isa.panel_width;
  const uint64_t given = (positions - 1) * stride + dim;
  const Guarded x(given * 4, below(2) == 0);
  fill(x, given);
  const auto value = [&](uint64_t p, uint64_t d) { return p < positions && d < dim ? double{x.floats()[p * stride + d]} : 0.0; };
  const float scale = uniform();

  AttentionOut keys((positions + width - 1) / width * width * dim);
  PackRowsJob job{x.floats(), stride, positions, dim, isa.panel_width, scale, keys.got.floats()};
  isa.attention->pack_keys(job);
  job.out = keys.plain.data();
  scalar::attention.pack_keys(job);
  keys.check_all("pack_keys", 1, [&](uint64_t i) {
    const double want = scale * value(i / (width * dim) * width + i % width, i / width % dim);
    return Exact{want, std::abs(want)};
  });

  AttentionOut values((dim + width - 1) / width * width * positions);
  job.out = values.got.floats();
  isa.attention->pack_values(job);
  job.out = values.plain.data();
  scalar::attention.pack_values(job);
  values.check_all("pack_values", 0, [&](uint64_t i) {
    const double want = value(i / width % positions, i / (width * positions) * width + i % width);
    return Exact{want, std::abs(want)};
  });
}

void test_sum_rows(const Isa& isa) {
  const auto dim = static_cast<uint32_t>(1 + below(150));
  const uint64_t positions = below(60), stride = dim + (below(2) == 0 ? 0 : below(40)), score_stride = 1 + below(3);
  const uint64_t given = positions == 0 ? 0 : (positions - 1) * stride + dim;
  const uint64_t num_scores = positions == 0 ? 0 : (positions - 1) * score_stride + 1;
  const Guarded x(given * 4, below(2) == 0), scores(num_scores * 4, below(2) == 0);
  fill(x, given);
  fill(scores, num_scores);
  AttentionOut out(dim);
  SumRowsJob job{scores.floats(), score_stride, x.floats(), stride, positions, dim, out.got.floats()};
  isa.attention->sum_rows(job);
  job.out = out.plain.data();
  scalar::attention.sum_rows(job);
  out.check_all("sum_rows", positions, [&](uint64_t d) {
    Exact sum{0, 0};
    for (uint64_t p = 0; p < positions; ++p) {
      const double term = double{scores.floats()[p * score_stride]} * x.floats()[p * stride + d];
      sum = {sum.value + term, sum.magnitude + std::abs(term)};
    }
    return sum;
  });
}

}  // namespace
}  // namespace terabag

int main() {
  using namespace terabag;
  const char* given = std::getenv("TERABAG_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  const char* repeats = std::getenv("TERABAG_TEST_CASES");
  const int cases = repeats != nullptr ? std::atoi(repeats) : 400;
  for (const Isa& isa : isas()) {
    random_bits.seed(seed);
    current = std::string(isa.name) + ", TERABAG_TEST_SEED=" + std::to_string(seed);
    test_functions(isa);
    for (int number = 0; number < cases; ++number) {
      current = std::string(isa.name) + ", case " + std::to_string(number) + ", TERABAG_TEST_SEED=" + std::to_string(seed);
      test_bags(isa, number);
      if (number % 4 == 0) test_fully_connected(isa);
      if (number % 4 == 0) test_interaction(isa);
      test_activation(isa);
      test_softmax(isa);
      test_fold_query(isa);
      test_pack_rows(isa);
      test_sum_rows(isa);
    }
    std::printf("%s: %d cases hold\n", isa.name, cases);
  }
  return 0;
}
