// The vectors of the instruction set that a file is compiled for. No formulas and no loops; internal linkage only.
//
// Elementwise loops need no vectors: they vectorise as they stand. The canonical sum does (gcc 12 keeps the lanes of a
// plain loop in memory, half the speed), and stores past the caches have no plain C++ form.
#pragma once
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>  // the compiler's own header; its functions are always inlined and leave no symbols
#endif

namespace samestep {
namespace {

#ifdef __CUDACC__

// A thread of a GPU computes one value at a time.
template <class X, class T>
inline X load(const T* from) {
  return *from;
}

inline double widen(float x) { return x; }
inline double widen(double x) { return x; }

// As on a processor, below: fused where the product is exact.
template <class T>
inline double add_product(double sum, double a, double b) {
  return sum + (a * b);
}
template <>
inline double add_product<float>(double sum, double a, double b) {
  return __fma_rn(a, b, sum);
}

#else

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
constexpr int kWidth = kVectorBytes / 8;  // float64 terms in a vector

typedef unsigned long long Words64 __attribute__((vector_size(kVectorBytes)));
typedef float Floats __attribute__((vector_size(kVectorBytes)));
typedef double Doubles __attribute__((vector_size(kVectorBytes)));
typedef float FewFloats __attribute__((vector_size(kVectorBytes / 2)));  // kWidth of them, to be widened

template <class T>
struct Vectors;
template <>
struct Vectors<float> {
  using Full = Floats;      // for elementwise work
  using Terms = FewFloats;  // kWidth values, to be widened to terms of a sum
};
template <>
struct Vectors<double> {
  using Full = Doubles;
  using Terms = Doubles;
};

// X is a scalar or a vector, so that a formula is written once for the body of a loop and for its tail.
template <class X, class T>
inline X load(const T* from) {
  X x;
  __builtin_memcpy(&x, from, sizeof(X));
  return x;
}
template <class X, class T>
inline void store(T* to, X x) {
  __builtin_memcpy(to, &x, sizeof(X));
}

// *to = x past the caches; `to` is a multiple of kVectorBytes. A result larger than the caches would evict what is
// still needed, and each line would be read before it is overwritten. Call finish_stores() before other threads may
// read it.
template <class T, class V>
inline void store_past_caches(T* to, V x) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)x);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)x);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(to), (__m128i)x);
#else
  store(to, x);
#endif
}
inline void finish_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

inline double widen(float x) { return x; }
inline double widen(double x) { return x; }
inline Doubles widen(Doubles x) { return x; }
// By intrinsics: gcc 12 compiles __builtin_convertvector to four instructions, at half the speed.
inline Doubles widen(FewFloats x) {
#if defined(__AVX512F__)
  return (Doubles)_mm512_maskz_cvtps_pd(0xff, (__m256)x);  // the form without a mask draws a false warning in gcc 12
#elif defined(__AVX2__)
  return (Doubles)_mm256_cvtps_pd((__m128)x);
#elif defined(__x86_64__)
  return (Doubles)_mm_cvtps_pd((__m128)_mm_cvtsi64_si128((long long)x));
#else
  return __builtin_convertvector(x, Doubles);
#endif
}

// float32 values, each rounded once.
inline FewFloats narrow(Doubles x) {
#if defined(__x86_64__) && !defined(__AVX2__)
  return (FewFloats)_mm_cvtsi128_si64((__m128i)_mm_cvtpd_ps((__m128d)x));
#else
  return __builtin_convertvector(x, FewFloats);
#endif
}

// The product of the two halves of each word.
inline Words64 product_of_halves(Words64 x) {
  // By intrinsics: gcc 12 does not see that the halves are 32 bits wide, and multiplies three times.
#if defined(__AVX512F__)
  return (Words64)_mm512_maskz_mul_epu32(0xff, (__m512i)x, (__m512i)(x >> 32));
#elif defined(__AVX2__)
  return (Words64)_mm256_mul_epu32((__m256i)x, (__m256i)(x >> 32));
#elif defined(__SSE2__)
  return (Words64)_mm_mul_epu32((__m128i)x, (__m128i)(x >> 32));
#else
  return (x & 0xffffffff) * (x >> 32);
#endif
}

// Modulo 2^64, which any order gives.
inline unsigned long long sum_of_lanes(Words64 x) {
#if defined(__AVX512F__)
  const __m256i four = _mm256_add_epi64(_mm512_castsi512_si256((__m512i)x), _mm512_extracti64x4_epi64((__m512i)x, 1));
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return (unsigned long long)two[0] + (unsigned long long)two[1];
#else
  unsigned long long sum = 0;
  for (int lane = 0; lane < kVectorBytes / 8; ++lane) sum += x[lane];
  return sum;
#endif
}

// Where a or b is NaN, which one comparison tells; of several, | makes one.
#if defined(__AVX512F__)
typedef __mmask16 Unordered;
inline Unordered unordered(Floats a, Floats b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q); }
inline Unordered unordered(Doubles a, Doubles b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_UNORD_Q); }
inline bool any(Unordered x) { return x != 0; }
#else
typedef Words64 Unordered;
#if defined(__AVX2__)
inline Unordered unordered(Floats a, Floats b) { return (Words64)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_UNORD_Q); }
inline Unordered unordered(Doubles a, Doubles b) {
  return (Words64)_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_UNORD_Q);
}
inline bool any(Unordered x) { return _mm256_testz_si256((__m256i)x, (__m256i)x) == 0; }
#elif defined(__SSE2__)
inline Unordered unordered(Floats a, Floats b) { return (Words64)_mm_cmpunord_ps((__m128)a, (__m128)b); }
inline Unordered unordered(Doubles a, Doubles b) { return (Words64)_mm_cmpunord_pd((__m128d)a, (__m128d)b); }
inline bool any(Unordered x) { return _mm_movemask_epi8((__m128i)x) != 0; }
#else
inline Unordered unordered(Floats a, Floats b) { return (Words64)((a != a) | (b != b)); }
inline Unordered unordered(Doubles a, Doubles b) { return (Words64)((a != a) | (b != b)); }
inline bool any(Unordered x) { return (x[0] | x[1]) != 0; }
#endif
#endif

// x itself, which the compiler does not know to be in memory as well: it would read it there for each use.
template <class V>
inline V in_register(V x) {
#if defined(__SSE2__)
  __asm__("" : "+v"(x));
#endif
  return x;
}

// x in all lanes. Nothing is computed: x - (+0) is x, -0 included.
template <class V, class T>
inline V broadcast(T x) {
  return x - V{};
}

// sum + a*b, where a and b hold values of type T. The product of two float32 is exact in float64, so a fused
// multiply-add rounds as the two operations do; the product of two float64 is rounded on its own.
template <class T, class D>
inline D add_product(D sum, D a, D b) {
  return sum + (a * b);
}
#if defined(__AVX512F__)
template <>
inline Doubles add_product<float>(Doubles sum, Doubles a, Doubles b) {
  return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)sum);
}
#elif defined(__AVX2__) && defined(__FMA__)
template <>
inline Doubles add_product<float>(Doubles sum, Doubles a, Doubles b) {
  return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)sum);
}
#endif

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
