// The arithmetic contract: the operations a kernel may use. No loops, no formulas, no library header.
#pragma once

#ifdef __FAST_MATH__
#error "samestep: -ffast-math changes the bits that the package promises; build without it"
#endif
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "samestep: -ffinite-math-only drops the checks for NaN and infinity; build without it"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "samestep: float expressions must be rounded to float (x86-32: build with -mfpmath=sse)"
#endif

// For functions that a GPU's compiler compiles as well.
#ifdef __CUDACC__
#define HD __host__ __device__
#else
#define HD
#endif

// Kernels use + - * / and root, each rounded once to nearest even, in the order written; compare and select. IEEE 754
// fixes the result of these to the bit (2019: section 5.4.1). All else that a kernel could use is left to the library,
// the compiler or the processor: libm's functions, fused multiply-add where it is not written, estimates of 1/x and
// 1/sqrt(x), minimum and maximum of a NaN.
#ifdef __CUDACC__
static inline HD float root(float x) { return __fsqrt_rn(x); }
static inline HD double root(double x) { return __dsqrt_rn(x); }
#else
static inline HD float root(float x) { return __builtin_sqrtf(x); }
static inline HD double root(double x) { return __builtin_sqrt(x); }
#endif
