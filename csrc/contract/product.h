// The matrix product: one chain of fused multiply-adds for each element. No loops over memory, no threads. The loops of
// a processor are in isa/product.h, those of a GPU in gpu/product.cuh; the NumPy twin is backends/reference/product.py.
//
// C = A B, with A (m, k) and B (k, n). An element's k terms are added in increasing order, in blocks of 256:
//   block    s = fma(a_p, b_p, s) from s = +0, each rounded once to T
//   product  c = the first block's s, then c = c + s for each later one;  +0 where k = 0
// Nothing else is fixed: vectors, panels, tiles and threads cut m and n, never k. Blocks keep a chain's inputs in the
// cache, and the error of a sum of k terms grows with 256 + k/256 instead of k (Higham, The accuracy of floating point
// summation, 1993, section 3).
//
//   linear    y = product(x, w) + bias, then ReLU: y <= 0 becomes +0, so NaN passes
//   backward  dx = product(dy, w^T),  dw = product(x^T, dy),  dbias = T(csum over the rows of dy)
//             with ReLU, dy is +0 in these wherever y <= 0
#pragma once
#include "contract/fp.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {

// a*b + c rounded once: the operation of IEEE 754 (2019: section 5.4.1), which all processors that have it agree on.
// X is T or a vector of T.
#ifdef __CUDACC__

inline float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
inline double fused(double a, double b, double c) { return __fma_rn(a, b, c); }

#elif defined(__AVX512F__)

inline Floats fused(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline Doubles fused(Doubles a, Doubles b, Doubles c) {
  return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}

#elif defined(__AVX2__) && defined(__FMA__)

inline Floats fused(Floats a, Floats b, Floats c) { return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline Doubles fused(Doubles a, Doubles b, Doubles c) {
  return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}

#else

// One instruction a lane where the processor has it; else the C library's, which is exact as well, and slow.
inline Doubles fused(Doubles a, Doubles b, Doubles c) {
  for (int i = 0; i < kWidth; ++i) c[i] = __builtin_fma(a[i], b[i], c[i]);
  return c;
}

#if defined(__x86_64__) || defined(__i386__)

// Of float32 without the instruction, by float64: the product is exact there. The sum s is rounded, its error e
// (Knuth's two-sum) is exact, and s is rounded to odd by it: towards zero, with the last bit set. Then rounding to
// float32 gives what one rounding of a*b + c gives, since 53 bits are more than 24 + 1 (Boldo & Melquiond 2008, theorem
// 3).
inline FewFloats fused(FewFloats a, FewFloats b, FewFloats c) {
  typedef unsigned long long Bits __attribute__((vector_size(kVectorBytes)));
  const Doubles p = widen(a) * widen(b), d = widen(c);
  const Doubles s = p + d, v = s - p, e = (p - (s - v)) + (d - v);
  const Bits inexact = (Bits)((e < 0.0) | (e > 0.0));  // not where e is NaN, beside an infinite s
  const Bits opposite = ((Bits)s ^ (Bits)e) >> 63;
  const Bits odd = ((Bits)s - (opposite & inexact)) | (inexact & 1);
  return narrow((Doubles)odd);
}
inline Floats fused(Floats a, Floats b, Floats c) {
  struct Halves {
    FewFloats low, high;
  };
  const Halves x = load<Halves>(&a), y = load<Halves>(&b), z = load<Halves>(&c);
  const Halves sums{fused(x.low, y.low, z.low), fused(x.high, y.high, z.high)};
  return load<Floats>(&sums);
}

#else

inline Floats fused(Floats a, Floats b, Floats c) {
  for (int i = 0; i < 2 * kWidth; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}

#endif
#endif

// +0 where the ReLU cuts y off.
template <class X>
inline X relu_of(X y) {
  return y <= X{} ? X{} : y;
}

// dy as it reaches the product, where the ReLU's result is y.
template <class X>
inline X relu_gradient_of(X dy, X y) {
  return y <= X{} ? X{} : dy;
}

}  // namespace
}  // namespace samestep
