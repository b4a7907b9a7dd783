#pragma once
#include "kernels/activation.h"

// The functions, for all instruction sets. One brings its vectors, in a struct of an unnamed namespace, so that nothing here is shared
// between object files that are compiled for different CPUs:
//
//   kLanes, Floats                           values of a vector; a vector of float32
//   load(from), store(to, x)                 a whole vector
//   load_last(from, count), store_last(to, x, count)      the first `count` lanes, 1 to kLanes - 1; memory behind them is not touched
//   broadcast(value), add(a, b), subtract(a, b), multiply(a, b), divide(a, b)
//   multiply_add(a, b, c)                    a * b + c, fused where the instruction set has it
//   product_error(a, b, product)             a * b - product, exact when product is a * b rounded
//   at_most(x, limit), at_least(x, limit)    x where it is NaN
//   magnitude(x), with_sign_of(x, sign)      x is not negative
//   if_less(a, b, yes, no)                   per lane: yes where a < b, no elsewhere, also where one is NaN
//   nearest(x)                               the whole number next to x, ties to even; |x| below 2^21
//   only_first(x, count)                     0 in all lanes but the first `count`
//   largest_lane(x), sum_of_lanes(x)         the former may pass over NaN
//   scale(x, n)                              x * 2^n rounded once, for whole n in [-260, 200]; NaN where x is
//
// Polynomials are minimax approximations, weighted for the relative error of the function, with coefficients that were rounded to float32
// one by one and the others fitted again.
namespace terabag {
namespace {

template <typename Isa>
class Functions {
  using Floats = typename Isa::Floats;

 public:
  static inline void activate(const ActivationJob& job) {
    switch (job.function) {
      case Function::kExp: return apply(job, [](Floats x) { return exponential(x); });
      case Function::kSigmoid: return apply(job, [](Floats x) { return sigmoid(x); });
      case Function::kTanh: return apply(job, [](Floats x) { return tanh(x); });
      case Function::kSilu: return apply(job, [](Floats x) { return silu(x); });
      case Function::kGelu: return apply(job, [](Floats x) { return gelu(x); });
      case Function::kGeluTanh: return apply(job, [](Floats x) { return gelu_tanh(x); });
    }
  }

  static inline void softmax(const SoftmaxJob& job) {
    for (uint64_t row = 0; row < job.num_rows && job.dim > 0; ++row) softmax_row(job.values + row * job.stride, job.dim);
  }

 private:
  // In a NaN's row, the sum has it, whether the largest value passed it over or not.
  static inline float largest(const float* values, uint64_t dim) {
    if (dim < Isa::kLanes) {
      float most = values[0];
      for (uint64_t d = 1; d < dim; ++d) most = most < values[d] ? values[d] : most;
      return most;
    }
    // The last vector may have values of the one before it.
    Floats most = Isa::load(values + dim - Isa::kLanes);
    for (uint64_t d = 0; d + Isa::kLanes < dim; d += Isa::kLanes) most = Isa::at_least(Isa::load(values + d), most);
    return Isa::largest_lane(most);
  }

  // Values become their powers; returns the sum of these.
  static inline float exponentials(float* values, uint64_t dim, Floats most) {
    Floats sums = constant(0.0f);
    uint64_t d = 0;
    for (; d + Isa::kLanes <= dim; d += Isa::kLanes) {
      const Floats power = exponential(Isa::subtract(Isa::load(values + d), most));
      Isa::store(values + d, power);
      sums = Isa::add(sums, power);
    }
    if (d < dim) {
      const auto rest = static_cast<uint32_t>(dim - d);
      const Floats power = exponential(Isa::subtract(Isa::load_last(values + d, rest), most));
      Isa::store_last(values + d, power, rest);
      sums = Isa::add(sums, Isa::only_first(power, rest));
    }
    return Isa::sum_of_lanes(sums);
  }

  static inline void softmax_row(float* values, uint64_t dim) {
    // Float32 sums of few values lose next to nothing.
    constexpr uint64_t kPart = 256;
    const Floats most = constant(largest(values, dim));
    double sum = 0;
    for (uint64_t d = 0; d < dim; d += kPart) sum += static_cast<double>(exponentials(values + d, dim - d < kPart ? dim - d : kPart, most));
    const Floats inverse = constant(static_cast<float>(1.0 / sum));
    uint64_t d = 0;
    for (; d + Isa::kLanes <= dim; d += Isa::kLanes) Isa::store(values + d, Isa::multiply(Isa::load(values + d), inverse));
    if (d == dim) return;
    const auto rest = static_cast<uint32_t>(dim - d);
    Isa::store_last(values + d, Isa::multiply(Isa::load_last(values + d, rest), inverse), rest);
  }

  template <typename F>
  static inline void apply(const ActivationJob& job, F function) {
    // Rows without a gap are one.
    const bool one = job.stride == job.dim;
    const uint64_t num_rows = one ? 1 : job.num_rows, dim = one ? job.num_rows * job.dim : job.dim;
    for (uint64_t row = 0; row < num_rows; ++row) {
      float* values = job.values + row * job.stride;
      for (uint64_t d = 0; d < dim; d += Isa::kLanes) {
        // The last vector takes the same way, so that a value gets the same bits in it.
        const uint64_t left = dim - d;
        const auto count = static_cast<uint32_t>(left < Isa::kLanes ? left : Isa::kLanes);
        const Floats y = function(count == Isa::kLanes ? Isa::load(values + d) : Isa::load_last(values + d, count));
        count == Isa::kLanes ? Isa::store(values + d, y) : Isa::store_last(values + d, y, count);
      }
    }
  }

  static inline Floats constant(float value) { return Isa::broadcast(value); }
  static inline Floats negated(Floats x) { return Isa::subtract(constant(-0.0f), x); }

  // mantissa * 2^exponent: what is left to multiply comes before the one rounding of a result that is no longer normal.
  struct Power {
    Floats mantissa;
    Floats exponent;
    Floats value() const { return Isa::scale(mantissa, exponent); }
  };

  // e^x for x in [-125, 125].
  static inline Power power_of_e(Floats x) {
    // ln 2 in two parts, of which the first times any exponent is exact.
    constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    const Floats n = Isa::nearest(Isa::multiply(x, constant(kLog2E)));
    Floats r = Isa::multiply_add(n, constant(-kLn2High), x);
    r = Isa::multiply_add(n, constant(-kLn2Low), r);
    // (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2]: 2^-28.
    Floats p = constant(0.00138207327f);
    p = Isa::multiply_add(p, r, constant(0.00836867746f));
    p = Isa::multiply_add(p, r, constant(0.0416682661f));
    p = Isa::multiply_add(p, r, constant(0.166665211f));
    p = Isa::multiply_add(p, r, constant(0.49999994f));
    const Floats mantissa = Isa::add(constant(1.0f), Isa::multiply_add(Isa::multiply(r, r), p, r));
    return {mantissa, n};
  }

  static inline Floats exponential(Floats x) {
    // Beyond, results are 0 and infinity.
    return power_of_e(Isa::at_least(Isa::at_most(x, constant(89.0f)), constant(-105.0f))).value();
  }

  // x / (1 + e^-a) with a >= 0; for negative ones with e^-a as a further factor: what sigmoids are of -a.
  static inline Floats times_sigmoid(Floats x, Floats sign, Power e) {
    const Floats none = constant(0.0f);
    const Floats numerator = Isa::if_less(sign, none, Isa::multiply(x, e.mantissa), x);
    const Floats quotient = Isa::divide(numerator, Isa::add(constant(1.0f), e.value()));
    return Isa::scale(quotient, Isa::if_less(sign, none, e.exponent, none));
  }

  static inline Floats sigmoid(Floats x) {
    const Floats a = Isa::at_most(Isa::magnitude(x), constant(105.0f));
    return times_sigmoid(constant(1.0f), x, power_of_e(negated(a)));
  }

  static inline Floats silu(Floats x) {
    constexpr float kEnd = 110.0f;  // x e^x is 0 from -108.6 on.
    const Floats a = Isa::at_most(Isa::magnitude(x), constant(kEnd));
    return times_sigmoid(Isa::at_least(x, constant(-kEnd)), x, power_of_e(negated(a)));
  }

  static inline Floats tanh(Floats x) {
    constexpr float kSmall = 0.625f, kOne = 10.0f;  // From 9.02 on the result is 1.
    const Floats a = Isa::magnitude(x), square = Isa::multiply(a, a);
    // (tanh(a) / a - 1) / a^2 on [0, kSmall]: 2^-27.
    Floats p = constant(-0.00569801964f);
    p = Isa::multiply_add(p, square, constant(0.0206323173f));
    p = Isa::multiply_add(p, square, constant(-0.0537374355f));
    p = Isa::multiply_add(p, square, constant(0.133314118f));
    p = Isa::multiply_add(p, square, constant(-0.333332807f));
    const Floats small = Isa::multiply_add(Isa::multiply(a, square), p, a);
    // 1 - 2 z / (1 + z) with z = e^-2a.
    const Floats z = power_of_e(Isa::multiply(Isa::at_most(a, constant(kOne)), constant(-2.0f))).value();
    const Floats rest = Isa::divide(Isa::add(z, z), Isa::add(constant(1.0f), z));
    return Isa::with_sign_of(Isa::if_less(a, constant(kSmall), small, Isa::subtract(constant(1.0f), rest)), x);
  }

  static inline Floats gelu(Floats x) {
    constexpr float kEnd = 14.625f;  // x times the tail is 0 from -14.4 on.
    // The tail, P(X > t) of a standard normal X, is e^(-t^2 / 2) g / (t + 4): g is a polynomial of u = (t - 4) / (t + 4) on [0, kEnd],
    // 2^-25.
    const Floats t = Isa::at_most(Isa::magnitude(x), constant(kEnd));
    // What rounding takes from t + 4 and from its inverse counts several times in g; `excess` is its relative part.
    const Floats one = constant(1.0f), sum = Isa::add(t, constant(4.0f));
    const Floats sum_low = Isa::subtract(t, Isa::subtract(sum, constant(4.0f)));
    const Floats inverse = Isa::divide(one, sum);
    const Floats excess = Isa::multiply_add(inverse, sum_low, Isa::product_error(inverse, sum, one));
    const Floats eighths = Isa::multiply(inverse, constant(8.0f));
    const Floats u = Isa::multiply_add(eighths, excess, Isa::subtract(one, eighths));
    Floats g = constant(-0.000130174725f);
    g = Isa::multiply_add(g, u, constant(0.000191040381f));
    g = Isa::multiply_add(g, u, constant(0.00158119004f));
    g = Isa::multiply_add(g, u, constant(-0.00351936324f));
    g = Isa::multiply_add(g, u, constant(-0.00753395027f));
    g = Isa::multiply_add(g, u, constant(0.0604053922f));
    g = Isa::multiply_add(g, u, constant(-0.18652153f));
    g = Isa::multiply_add(g, u, constant(0.387136668f));
    g = Isa::multiply_add(g, u, constant(-0.607896686f));
    g = Isa::multiply_add(g, u, constant(0.755285144f));
    // What it takes from t^2 is a factor of the power: far out it is many units of the last place. Both come last, in one rounding.
    const Floats square = Isa::multiply(t, t), lost = Isa::product_error(t, t, square);
    const Power e = power_of_e(Isa::multiply(square, constant(-0.5f)));
    const Floats product = Isa::multiply(Isa::multiply(e.mantissa, g), inverse);
    const Floats tail = Isa::subtract(product, Isa::multiply(product, Isa::multiply_add(lost, constant(0.5f), excess)));
    const Floats negative = Isa::scale(Isa::multiply(negated(t), tail), e.exponent);
    const Floats positive = Isa::multiply(x, Isa::subtract(one, Isa::scale(tail, e.exponent)));
    return Isa::if_less(x, constant(0.0f), negative, positive);
  }

  static inline Floats gelu_tanh(Floats x) {
    constexpr float kEnd = 10.9375f;  // The result is -0 from -10.8 on.
    // x sigmoid(x (kFirst + kThird x^2)), these being 2 sqrt(2 / pi) and that times 0.044715, in two parts each. The exponent needs more
    // bits than a float has, so that what rounding takes from it is carried along, and becomes a factor of the power.
    constexpr float kFirst = 1.59576917f, kFirstLow = -4.53406805e-08f, kThird = 0.0713548139f, kThirdLow = 2.39883247e-09f;
    const Floats a = Isa::at_most(Isa::magnitude(x), constant(kEnd));
    const Floats square = Isa::multiply(a, a), square_low = Isa::product_error(a, a, square);
    const Floats third = Isa::multiply(square, constant(kThird));
    Floats low = Isa::product_error(square, constant(kThird), third);
    low = Isa::multiply_add(square_low, constant(kThird), low);
    low = Isa::multiply_add(square, constant(kThirdLow), low);
    const Floats sum = Isa::add(constant(kFirst), third);
    const Floats added = Isa::subtract(sum, constant(kFirst));
    const Floats sum_low = Isa::add(Isa::subtract(constant(kFirst), Isa::subtract(sum, added)), Isa::subtract(third, added));
    low = Isa::add(low, Isa::add(sum_low, constant(kFirstLow)));
    const Floats exponent = Isa::multiply(a, sum);
    const Floats exponent_low = Isa::multiply_add(a, low, Isa::product_error(a, sum, exponent));
    Power e = power_of_e(negated(exponent));
    e.mantissa = Isa::multiply_add(negated(exponent_low), e.mantissa, e.mantissa);
    return times_sigmoid(Isa::at_least(x, constant(-kEnd)), x, e);
  }
};

}  // namespace
}  // namespace terabag
