// Numbers kept in 16 bits: conversion to and from the float32 that rules compute in. Integer arithmetic, and float
// arithmetic that is exact or rounds once to nearest even. No conversion instructions: not every processor has them,
// and they differ in NaN and subnormals. The NumPy twin is backends/reference/storage.py.
#pragma once
#include "contract/fp.h"
#include "contract/types.h"

namespace samestep {
namespace {

typedef unsigned short Half;
typedef unsigned Word;

#ifdef __CUDACC__
inline HD Word bits_of(float x) { return __float_as_uint(x); }
inline HD float float_of(Word bits) { return __uint_as_float(bits); }
#else
inline Word bits_of(float x) {
  Word bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(Word bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
#endif

// bfloat16: sign, 8 bits of exponent, 7 of mantissa, the upper half of a float32.
//   narrow(x) = upper half of (bits + 0x7fff + lowest bit kept)
// What is added is half a unit minus one, or half a unit if that bit is 1: it carries exactly where nearest even rounds
// up. Any NaN becomes 0x7fc0, the one that digests are written with.
struct BFloat16 {
  static HD float widen(Half h) { return float_of(Word(h) << 16); }
  static HD Half narrow(float x) { return Half(rounded(x) >> 16); }
  // Stochastic rounding: up, in magnitude, with the probability (lower half)/65536. `random` is uniform on 0..65535.
  static HD Half narrow_at_random(float x, Half random) { return Half(add(x, random) >> 16); }
  // Two in the halves of one word.
  static HD float lower(Word two) { return float_of(two << 16); }
  static HD float upper(Word two) { return float_of(two & 0xffff0000); }
  static HD Word narrow_two(float lower, float upper) { return (rounded(lower) >> 16) | (rounded(upper) & 0xffff0000); }

 private:
  // x in bfloat16 is the upper half of these.
  static HD Word rounded(float x) { return add(x, 0x7fff + ((bits_of(x) >> 16) & 1)); }
  static HD Word add(float x, Word bias) { return x == x ? bits_of(x) + bias : 0x7fc00000; }
};

// IEEE binary16: sign, 5 bits of exponent (bias 15), 10 of mantissa; after Giesen's "float->half variants" (public
// domain). float32 has bias 127 and 23 bits: exponents differ by 112, mantissas by 13 bits.
struct Float16 {
  static HD float widen(Half h) {
    Word magnitude = Word(h & 0x7fff) << 13, sign = Word(h & 0x8000) << 16;
    Word scaled = bits_of(float_of(magnitude) * 0x1p112f);  // exact, from subnormals as well
    // Exponent 31, infinity and NaN, must become 255.
    return float_of((magnitude >= Word(0x7c00) << 13 ? scaled | 0x7f800000 : scaled) | sign);
  }
  static HD Half narrow(float x) {
    const Word overflow = Word(127 + 16) << 23, normal = Word(113) << 23;  // 2^16, and 2^-14, the least normal number
    Word sign = bits_of(x) & 0x80000000, bits = bits_of(x) ^ sign;
    Word special = bits > 0x7f800000 ? 0x7e00 : 0x7c00;  // NaN, infinity
    // A float in [0.5, 1) has its last bit at 2^-24, as subnormals of binary16 have: the addition rounds there.
    Word subnormal = bits_of(float_of(bits) + 0.5f) - bits_of(0.5f);
    // Nearest even as in BFloat16, 13 bits cut off; a carry out of the mantissa raises the exponent, up to infinity.
    Word rounded = (bits + 0xfff + ((bits >> 13) & 1) - (Word(112) << 23)) >> 13;
    return Half((bits >= overflow ? special : bits < normal ? subnormal : rounded) | (sign >> 16));
  }
};

// float32 kept as two halves: the upper one is a bfloat16 (cut off, not rounded), the lower one the other 16 bits. All
// NaNs are made one, since the lower half would tell them apart.
struct Split {
  static HD float join(Half upper, Half lower) { return float_of((Word(upper) << 16) | lower); }
  // The upper half is the upper half of this, the lower one the lower half.
  static HD Word of(float x) { return x == x ? bits_of(x) : 0x7fc00000; }
};

#ifndef __CUDACC__  // a GPU's loops are in gpu/storage.cuh and gpu/step.cuh

// stored (n) in 16 bits, x and out (n) in float32; S: BFloat16 or Float16.
template <class S>
void widen(const void* stored, Index n, float* out) {
  const Half* __restrict from = static_cast<const Half*>(stored);
  float* __restrict to = out;
  for (Index i = 0; i < n; ++i) to[i] = S::widen(from[i]);
}

template <class S>
void narrow(const float* x, Index n, void* stored) {
  const float* __restrict from = x;
  Half* __restrict to = static_cast<Half*>(stored);
  for (Index i = 0; i < n; ++i) to[i] = S::narrow(from[i]);
}

void narrow_at_random(const float* x, const Half* random, Index n, void* stored) {
  const float* __restrict from = x;
  Half* __restrict to = static_cast<Half*>(stored);
  for (Index i = 0; i < n; ++i) to[i] = BFloat16::narrow_at_random(from[i], random[i]);
}

// The halves in two arrays (n).
void join(const void* upper, const void* lower, Index n, float* out) {
  const Half* __restrict u = static_cast<const Half*>(upper), * __restrict l = static_cast<const Half*>(lower);
  float* __restrict to = out;
  for (Index i = 0; i < n; ++i) to[i] = Split::join(u[i], l[i]);
}

void split(const float* x, Index n, void* upper, void* lower) {
  const float* __restrict from = x;
  Half* __restrict u = static_cast<Half*>(upper), * __restrict l = static_cast<Half*>(lower);
  for (Index i = 0; i < n; ++i) {
    const Word bits = Split::of(from[i]);
    u[i] = Half(bits >> 16);
    l[i] = Half(bits);
  }
}

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
