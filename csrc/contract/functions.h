// exp, log, tanh and sigmoid of one value. No branches, so that loops over them vectorise: all is computed, then
// selected. The NumPy twin is backends/reference/functions.py.
//
// In float64, with + - * /, and with integers where a power of two is made or taken apart:
//   exp      n = x/ln 2, rounded to a whole number;  r = x - n*ln 2, |r| <= ln(2)/2;  2^n * (1 + (r + r^2*q(r)))
//   tanh     E = exp(2|x|) - 1 = 2^n*(r + r^2*q(r)) + (2^n - 1);  E/(E + 2), with the sign of x
//   sigmoid  E = exp(-|x|);  1/(1 + E), or E/(1 + E) where x < 0
//   log      x = 2^n * (1 + f), 1 + f in [sqrt(1/2), sqrt(2));  s = f/(2 + f), h = f^2/2;
//            n*ln 2 + (f - (h - s*(h + R(s^2))))
// q and R are minimax polynomials. ln 2 is a sum of two numbers, of which the first has 42 bits: n times it is exact.
//
// float32: this value, rounded once more, is the float32 nearest to the true value, ties to even. It is for all 2^32
// values, which tests/support/prove_functions.py tries. So float32 is fixed by its definition, not by this code, and
// may fuse its multiply-adds: all values were tried with and without.
// float64: within 1 ulp of the true value, and fixed by this code. r, exp(r) and E are sums of two numbers there, and
// quotients are corrected by their remainder, since the errors of several roundings would add up to more.
//
// Source: Tang, Table-driven implementation of the exponential function (1989), for r; Ng, fdlibm's e_log.c (1993), for
// the form of log; Dekker, A floating-point technique for extending the available precision (1971), for sums of two.
#pragma once
#include "contract/fp.h"
#include "contract/types.h"

namespace samestep {
namespace {

// ---- powers of two ----

typedef unsigned long long Bits;

#ifdef __CUDACC__
inline HD Bits bits_of(double x) { return __double_as_longlong(x); }
inline HD double double_of(Bits bits) { return __longlong_as_double(bits); }
#else
inline HD Bits bits_of(double x) {
  Bits bits;
  __builtin_memcpy(&bits, &x, 8);
  return bits;
}

inline HD double double_of(Bits bits) {
  double x;
  __builtin_memcpy(&x, &bits, 8);
  return x;
}
#endif

constexpr Bits kSign = 1ull << 63;
constexpr Bits kOne = 0x3ff0000000000000, kRootHalf = 0x3fe6a09e667f3bcd, kTwo52 = 0x4330000000000000;
constexpr double kWhole = 0x1.8p52;  // x + kWhole is x rounded to a whole number, which its lowest bits are

inline HD double magnitude(double x) { return double_of(bits_of(x) & ~kSign); }
inline HD double with_sign_of(double x, double y) { return double_of(bits_of(y) | (bits_of(x) & kSign)); }
inline HD double infinity() { return double_of(0x7ff0000000000000); }
inline HD double at_most(double limit, double x) { return limit < x ? limit : x; }  // NaN stays NaN

// 2^n of n + kWhole, -1022 <= n <= 1023; of NaN some number or NaN.
inline HD double power_of_2(double whole) { return double_of((bits_of(whole) << 52) + kOne); }

// 2^n * x, rounded once, for -2000 <= n <= 2000: as two factors, since 2^n itself may be no float64.
inline HD double scaled(double x, double n) {
  const double half = ((n * 0.5) + kWhole) - kWhole;
  return (x * power_of_2(half + kWhole)) * power_of_2((n - half) + kWhole);
}

// ---- sums of two numbers: high + low, |low| some 2^-53 of |high| ----

struct Two {
  double high, low;
};

// a + b exactly.
inline HD Two two_sum(double a, double b) {
  const double s = a + b, t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}

// a*b exactly: the halves have 26 bits, so that their products are exact.
inline HD Two two_product(double a, double b) {
  const double p = a * b, c = 134217729.0 * a, d = 134217729.0 * b;
  const double a1 = c - (c - a), a2 = a - a1, b1 = d - (d - b), b2 = b - b1;
  return {p, (((a1 * b1) - p) + ((a1 * b2) + (a2 * b1))) + (a2 * b2)};
}

// a/b: the quotient of the high parts, and its remainder divided once more.
inline HD double quotient_of(Two a, Two b) {
  const double q = a.high / b.high;
  const Two p = two_product(q, b.high);
  return q + ((((a.high - p.high) - p.low) + (a.low - (q * b.low))) / b.high);
}

// a + b for |a| >= |b| or a = 0, rounded to odd: where it is not exact, the last bit is 1. What is then rounded to
// float32 is rounded as a + b would be, since no float32, and nothing midway between two, ends in that bit.
inline HD double odd_sum_of(double a, double b) {
  const double s = a + b, low = b - (s - a);
  const Bits toward_zero = bits_of(s) - ((bits_of(s) ^ bits_of(low)) >> 63);
  return low == 0.0 ? s : double_of(toward_zero | 1);
}

// ---- exp ----

constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45, kPerLn2 = 0x1.71547652b82fep+0;

// x = n*ln 2 + r + rest.
struct Reduced {
  double whole, n, r, rest;
};
inline HD Reduced reduced(double x) {
  const double whole = (x * kPerLn2) + kWhole, n = whole - kWhole;
  const double a = x - (n * kLn2High), b = n * kLn2Low, r = a - b;
  return {whole, n, r, (a - r) - b};
}

// a*b + c, by one instruction where the processor has it: with one rounding, or two. Only for what ends in a correctly
// rounded float32 either way.
inline HD double fused_or_not(double a, double b, double c) {
#if (defined(__FMA__) || defined(__aarch64__)) && !defined(__CUDACC__)
  return __builtin_fma(a, b, c);
#else
  return (a * b) + c;
#endif
}

// x = n*ln 2 + r, for float32.
struct Reduced32 {
  double whole, r;
};
inline HD Reduced32 reduced32(double x) {
  const double whole = fused_or_not(x, kPerLn2, kWhole), n = whole - kWhole;
  return {whole, fused_or_not(n, -kLn2Low, fused_or_not(n, -kLn2High, x))};  // the inner one is exact
}

// q of exp(r) = 1 + r + r^2*q(r), for z = r^2. Even powers apart from odd ones: neither waits for the other.
inline HD double q32(double r, double z) {  // exp(r) - 1 is off by 2^-49 of itself
  double even = 0x1.27dc5e7fe801dp-22;
  even = fused_or_not(even, z, 0x1.a01a79346277dp-16);
  even = fused_or_not(even, z, 0x1.6c16c13565d86p-10);
  even = fused_or_not(even, z, 0x1.5555555564c30p-5);
  even = fused_or_not(even, z, 0x1.fffffffffffbep-2);
  double odd = 0x1.72da740f91794p-19;
  odd = fused_or_not(odd, z, 0x1.a0199bd6a9e9bp-13);
  odd = fused_or_not(odd, z, 0x1.111111213e468p-7);
  odd = fused_or_not(odd, z, 0x1.555555555223cp-3);
  return fused_or_not(odd, r, even);
}
inline HD double q64(double r, double z) {  // off by 2^-61 of it
  double even = 0x1.1ee887ccb6cacp-29;
  even = (even * z) + 0x1.27e5364392edfp-22;
  even = (even * z) + 0x1.a01a017bb06b7p-16;
  even = (even * z) + 0x1.6c16c16c1f0e4p-10;
  even = (even * z) + 0x1.555555555553ep-5;
  even = (even * z) + 0.5;
  double odd = 0x1.af5ea87385a81p-26;
  odd = (odd * z) + 0x1.71ddf863a3050p-19;
  odd = (odd * z) + 0x1.a01a01afdd984p-13;
  odd = (odd * z) + 0x1.111111110f6c4p-7;
  odd = (odd * z) + 0x1.5555555555559p-3;
  return even + (odd * r);
}

// exp(r + rest).
inline HD Two exp_of(const Reduced& x) {
  const double z = x.r * x.r, p = (q64(x.r, z) * z) + (x.rest + (x.rest * x.r));
  const double high = 1.0 + x.r;
  return {high, (x.r - (high - 1.0)) + p};
}

// 2^n*(exp(r) - 1) + (2^n - less): exp(x) - less, for |x| <= 700.
inline HD double exp_less(double x, double less) {
  const Reduced32 a = reduced32(x);
  const double z = a.r * a.r, power = power_of_2(a.whole);
  return fused_or_not(power, fused_or_not(q32(a.r, z), z, a.r), power - less);
}

// The functions, for either type.

struct Exp {
  static HD float of(float x) {
    const Reduced32 a = reduced32(x);
    const double z = a.r * a.r, p = fused_or_not(q32(a.r, z), z, a.r) + 1.0;
    // The bits of NaN go through unchanged: the lowest 12 of `whole` are 0.
    float y = static_cast<float>(double_of(bits_of(p) + (bits_of(a.whole) << 52)));
    y = x > 128.0f ? static_cast<float>(infinity()) : y;
    return x < -128.0f ? 0.0f : y;
  }
  static HD double of(double given) {
    double x = at_most(710.0, given);
    x = -746.0 > x ? -746.0 : x;
    const Reduced a = reduced(x);
    const Two y = exp_of(a);
    return scaled(y.high + y.low, a.n);
  }
};

struct Tanh {
  static HD float of(float x) {
    const double E = exp_less(2.0 * at_most(10.0, magnitude(x)), 1.0);
    return static_cast<float>(with_sign_of(x, E / (E + 2.0)));
  }
  static HD double of(double x) {
    const Reduced a = reduced(2.0 * at_most(20.0, magnitude(x)));
    const double power = power_of_2(a.whole);
    const Two y = exp_of(a), less = two_sum(power * y.high, -1.0);
    const Two E = two_sum(less.high, (power * y.low) + less.low);
    Two D = two_sum(E.high, 2.0);
    D.low = D.low + E.low;
    return with_sign_of(x, quotient_of(E, D));
  }
};

struct Sigmoid {
  static HD float of(float x) {
    const double a = magnitude(x), E = exp_less(-at_most(128.0, a), 0.0);
    const double y = (x < 0.0f ? E : 1.0) / (1.0 + E);
    // Near 0 it is 1/2 + x/4 - x^3/48, and float64 may lose the last term, which decides where 1/2 + x/4 lies midway
    // between two float32. It needs to be no more than there, with its sign: x*2^-29.
    const double near = 0.5 + (x * 0x1.ffffffcp-3);
    return static_cast<float>(a < 0x1p-12 ? near : y);
  }
  static HD double of(double x) {
    const double a = magnitude(x);
    const Reduced b = reduced(-at_most(746.0, a));
    const Two y = exp_of(b), e = two_sum(y.high, y.low);
    Two D = two_sum(1.0, scaled(e.high, b.n));
    D.low = D.low + scaled(e.low, b.n);
    const Two top = {x < 0.0 ? e.high : 1.0, x < 0.0 ? e.low : 0.0};
    return scaled(quotient_of(top, D), x < 0.0 ? b.n : 0.0);
  }
};

// ---- log ----

struct Log {
  // z*R(z), with log((1 + s)/(1 - s)) = 2s + s*z*R(z) for z = s^2; off by 2^-60 of it.
  static HD double R(double z) {
    double p = 0x1.0c05166ec4148p-3;
    p = (p * z) + 0x1.0fbe71ad855c9p-3;
    p = (p * z) + 0x1.3b1c36b445cebp-3;
    p = (p * z) + 0x1.745cf8fe328f9p-3;
    p = (p * z) + 0x1.c71c720168526p-3;
    p = (p * z) + 0x1.2492492476c42p-2;
    p = (p * z) + 0x1.9999999999a38p-2;
    p = (p * z) + 0x1.5555555555555p-1;
    return p * z;
  }

  // log(x) = high + low for normal x > 0: high = n*ln 2 but for its last bits, or 0.
  static HD Two of_normal(double x, double more) {
    const Bits i = bits_of(x) + (kOne - kRootHalf);
    const double n = (double_of((i >> 52) | kTwo52) - (0x1p52 + 1023.0)) + more;
    const double f = double_of((i & ((1ull << 52) - 1)) + kRootHalf) - 1.0;
    const double s = f / (2.0 + f), h = (0.5 * f) * f;
    return {n * kLn2High, f - (h - ((s * (h + R(s * s))) + (n * kLn2Low)))};
  }

  // y where x is positive and finite; else what the limit is, or NaN.
  static HD double or_limit(double x, double y) {
    const double at_most_zero = x == 0.0 ? -infinity() : infinity() - infinity();
    return x > 0.0 ? (x < infinity() ? y : x) : at_most_zero;
  }

  static HD float of(float x) {
    const Two y = of_normal(x, 0.0);
    return static_cast<float>(or_limit(x, odd_sum_of(y.high, y.low)));
  }
  static HD double of(double x) {
    const bool subnormal = x < 0x1p-1022;
    const Two y = of_normal(subnormal ? x * 0x1p54 : x, subnormal ? -54.0 : 0.0);
    return or_limit(x, y.high + y.low);
  }
};

// FUNCTION(name, struct)
#define FOR_EACH_FUNCTION(FUNCTION) \
  FUNCTION(exp, Exp)                \
  FUNCTION(log, Log)                \
  FUNCTION(tanh, Tanh)              \
  FUNCTION(sigmoid, Sigmoid)

}  // namespace
}  // namespace samestep
