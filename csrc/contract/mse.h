// The mean squared error of a linear model, L(w) = (c/2)|Phi w - y|^2: residual and gradient in one pass over the rows.
// No threads and no memory of its own: mse_problem.cpp cuts the rows into blocks. Its NumPy twin is reference/mse.py.
//
//   r_i = T(csum_j(Phi_ij*w_j) - y_i)     g_j = T(c*csum_i(r_i*Phi_ij))     L = (c/2)*csum_i(r_i*r_i)
//
// csum is the canonical sum: float64, blocks of 1024 terms, 32 lanes a block, lanes halved, blocks paired. Over j the
// lanes lie along a row; over i they are 32 rows of sums of their own, since all columns are summed at once.
#pragma once
#include "contract/fetch.h"
#include "contract/sums.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {  // internal linkage: see rules.h

// ---- formulas ----

// One residual, from the sum over its row.
template <class T>
inline T mse_residual(double sum, T y) {
  return static_cast<T>(sum - static_cast<double>(y));
}

inline double factor_of(Scale scale, Index rows) {
  return scale.per_row ? scale.factor / static_cast<double>(rows) : scale.factor;
}

// One element of the gradient, from the sum over the rows; c as factor_of() has it.
template <class T>
inline T mse_gradient_element(double c, double sum) {
  return static_cast<T>(c * sum);
}

inline double mse_loss(Scale scale, Index rows, double squares) { return (factor_of(scale, rows) / 2.0) * squares; }

// Pairs sums[0], sums[1], ... as the canonical sum pairs its blocks, while they arrive one by one: there are sums of
// 1, 2, 4 ... blocks waiting, the bits of count say which.
class Pairing {
 public:
  void add(double sum) {
    Index i = count_++;
    for (; i & 1; i >>= 1) sum = waiting_[--top_] + sum;
    waiting_[top_++] = sum;
  }
  double total() const {
    if (top_ == 0) return 0.0;
    double sum = waiting_[top_ - 1];
    for (int i = top_ - 2; i >= 0; --i) sum = waiting_[i] + sum;
    return sum;
  }

 private:
  Index count_ = 0;
  int top_ = 0;
  double waiting_[64];
};

#ifndef __CUDACC__  // a GPU's loops are in kernels.cu
// ---- loops ----

constexpr int kVectorsOfLanes = kLanes / kWidth;
constexpr Index kRounds = 4;  // rows that a lane takes at a time: its sums are loaded and stored once for the four

// kWidth elements as doubles.
template <class T>
inline Doubles wide(const T* from) {
  return widen(load<typename Vectors<T>::Terms>(from));
}

// The first n <= kWidth elements, then zeros; what lies behind them is not touched.
#if defined(__AVX512F__)
inline Doubles wide_some(const double* from, Index n) { return _mm512_maskz_loadu_pd((1u << n) - 1, from); }
inline Doubles wide_some(const float* from, Index n) {
  return _mm512_cvtps_pd(_mm256_maskz_loadu_ps((1u << n) - 1, from));
}
#elif defined(__AVX2__)
inline Doubles wide_some(const double* from, Index n) {
  return _mm256_maskload_pd(from, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)));
}
inline Doubles wide_some(const float* from, Index n) {
  __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(n)), _mm_setr_epi32(0, 1, 2, 3));
  return _mm256_cvtps_pd(_mm_maskload_ps(from, mask));
}
#else
template <class T>
inline Doubles wide_some(const T* from, Index n) {
  return Doubles{static_cast<double>(from[0]), n > 1 ? static_cast<double>(from[1]) : 0.0};
}
#endif

// The sum of kWidth lanes: j with j + kWidth/2, then + kWidth/4, ...
inline double across(Doubles a) {
#if defined(__AVX512F__)
  a = a + (Doubles)_mm512_shuffle_f64x2((__m512d)a, (__m512d)a, 0x4e);
  a = a + (Doubles)_mm512_permutex_pd((__m512d)a, 0x4e);
  a = a + (Doubles)_mm512_permute_pd((__m512d)a, 0x55);
#elif defined(__AVX2__)
  a = a + (Doubles)_mm256_permute4x64_pd((__m256d)a, 0x4e);
  a = a + (Doubles)_mm256_permute_pd((__m256d)a, 0x5);
#else
  a[0] = a[0] + a[1];
#endif
  return a[0];
}

// Halves n vectors of lanes until one sum is left.
template <int n>
inline double halve(Doubles* lanes) {
  if constexpr (n == 1) {
    return across(lanes[0]);
  } else {
#pragma GCC unroll 8
    for (int v = 0; v < n / 2; ++v) lanes[v] = lanes[v] + lanes[v + n / 2];
    return halve<n / 2>(lanes);
  }
}

// The sum of x_j*y_j over one block's n <= 1024 terms. Unlike run_block of sums.h it keeps all lanes in registers: rows
// are short, and a sum starts anew with each.
template <class T, class U>
inline double dot_block(const T* x, const U* y, Index n) {
  Doubles lanes[kVectorsOfLanes] = {};
  Index j = 0;
  for (; j + kLanes <= n; j += kLanes) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectorsOfLanes; ++v) {
      lanes[v] = add_product<T>(lanes[v], wide(x + j + v * kWidth), wide(y + j + v * kWidth));
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectorsOfLanes; ++v) {
    Index at = j + v * kWidth;
    if (at < n) {
      Index some = n - at < kWidth ? n - at : kWidth;
      lanes[v] = add_product<T>(lanes[v], wide_some(x + at, some), wide_some(y + at, some));
    }
  }
  return halve<kVectorsOfLanes>(lanes);
}

template <class T, class U>
inline double dot(const T* x, const U* y, Index n) {
  if (n <= kBlock) return dot_block(x, y, n);
  Pairing blocks;
  for (Index j = 0; j < n; j += kBlock) blocks.add(dot_block(x + j, y + j, n - j < kBlock ? n - j : kBlock));
  return blocks.total();
}

#if defined(__AVX512F__)
// dot() of four rows of n <= 1024 terms at once: w is loaded once for the four, and their lanes are halved together
// (two fifths faster on rows of 10; on rows of 64 and more, which come from memory, a tenth slower). Other instruction
// sets lack the registers.
template <class T>
inline void dot_four(const T* const* x, const double* w, Index n, double* out) {
  Doubles lanes[4][kVectorsOfLanes] = {};
  Index j = 0;
  for (; j + kLanes <= n; j += kLanes) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectorsOfLanes; ++v) {
      Doubles w_v = load<Doubles>(w + j + v * kWidth);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) lanes[i][v] = add_product<T>(lanes[i][v], wide(x[i] + j + v * kWidth), w_v);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectorsOfLanes; ++v) {
    Index at = j + v * kWidth;
    if (at < n) {
      Index some = n - at < kWidth ? n - at : kWidth;
      Doubles w_v = wide_some(w + at, some);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) lanes[i][v] = add_product<T>(lanes[i][v], wide_some(x[i] + at, some), w_v);
    }
  }
  __m512d sum[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) sum[i] = (__m512d)((lanes[i][0] + lanes[i][2]) + (lanes[i][1] + lanes[i][3]));
  // Lane j with j + 4, of two rows in one vector; with j + 2, of all four; with j + 1.
  __m512d a = _mm512_shuffle_f64x2(sum[0], sum[1], 0x44) + _mm512_shuffle_f64x2(sum[0], sum[1], 0xee);
  __m512d b = _mm512_shuffle_f64x2(sum[2], sum[3], 0x44) + _mm512_shuffle_f64x2(sum[2], sum[3], 0xee);
  __m512d c = _mm512_shuffle_f64x2(a, b, 0x88) + _mm512_shuffle_f64x2(a, b, 0xdd);
  c = c + _mm512_permute_pd(c, 0x55);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) out[i] = c[2 * i];
}
#endif

[[maybe_unused]] constexpr Index kLongRow = 64;  // from here on rows are taken one by one

// dot() of n rows with w; the rows `ahead` elements further on will be wanted next, unless that is 0. They are asked
// for since memory would stand idle while this group's share of the gradient is added up (a quarter faster on rows of
// 64 floats; the processor's own prefetcher stops where the reading stops). Row by row between the products: asked for
// in one go, a group costs more than it brings.
template <class T>
inline void dot_rows(const T* const* rows, Index n, const double* w, Index p, Index ahead, double* out) {
  Index i = 0;
#if defined(__AVX512F__)
  for (; i + 4 <= n && p < kLongRow; i += 4) {
    for (int k = 0; k < 4 && ahead > 0; ++k) fetch<2>(rows[i + k] + ahead, p);
    dot_four(rows + i, w, p, out + i);
  }
#endif
  for (; i < n; ++i) {
    if (ahead > 0) fetch<2>(rows[i] + ahead, p);
    out[i] = dot(rows[i], w, p);
  }
}

// sums_j = sums_j + r_k*row_k,j for k = 0..n-1 in turn; the first time, sums start at +0.
template <class T, int n>
inline void add_scaled_rows(double* sums, bool start, const double* r, const T* const* rows, Index p) {
  Doubles factor[n];
#pragma GCC unroll 4
  for (int k = 0; k < n; ++k) factor[k] = Doubles{} + r[k];
  Index j = 0;
  for (; j + kWidth <= p; j += kWidth) {
    Doubles a = start ? Doubles{} : load<Doubles>(sums + j);
#pragma GCC unroll 4
    for (int k = 0; k < n; ++k) a = add_product<T>(a, factor[k], wide(rows[k] + j));
    store(sums + j, a);
  }
  if (j < p) {
    Doubles a = start ? Doubles{} : load<Doubles>(sums + j);
#pragma GCC unroll 4
    for (int k = 0; k < n; ++k) a = add_product<T>(a, factor[k], wide_some(rows[k] + j, p - j));
    store(sums + j, a);  // rows of sums are padded to whole vectors
  }
}

// Adds two rows of sums.
inline void add_sums(double* __restrict a, const double* __restrict b, Index p) {
  for (Index j = 0; j < p; ++j) a[j] = a[j] + b[j];
}

// One block of a batch: residuals, the sum of their squares, the sums over its rows for all columns. Every row is
// fetched from memory once: a group of rows stays in the cache between its residuals and its share of the gradient.
template <class T>
void mse_block(const MseBlock& b) {
  const T* Phi = static_cast<const T*>(b.Phi);
  const T* y = static_cast<const T*>(b.y);
  const Index p = b.p, padded = padded_columns(p);
  // The group must fit into the second-level cache beside the lanes.
  constexpr Index kGroupBytes = 512 * 1024;
  Index rounds = kGroupBytes / (kLanes * p * static_cast<Index>(sizeof(T)));
  rounds = rounds < 1 ? 1 : rounds > kRounds ? kRounds : rounds;
  const Index group = rounds * kLanes;

  double squares[kLanes] = {};
  double r[kRounds * kLanes];
  const T* rows[kRounds * kLanes];
  for (Index first = 0; first < b.count; first += group) {
    const Index n = b.count - first < group ? b.count - first : group;
    for (Index i = 0; i < n; ++i) {
      const Index at = b.begin + first + i;
      rows[i] = Phi + (b.rows != nullptr ? b.rows[at] : at) * p;
    }
    const bool more = b.rows == nullptr && first + 2 * group <= b.count;
    dot_rows(rows, n, b.w, p, more ? group * p : 0, r);
    for (Index i = 0; i < n; ++i) {
      const Index at = b.begin + first + i;
      T rounded = mse_residual(r[i], y[b.rows != nullptr ? b.rows[at] : at]);
      r[i] = rounded;
      if (b.r != nullptr) static_cast<T*>(b.r)[at] = rounded;
    }
    for (Index i = 0; i < n; ++i) squares[i % kLanes] = squares[i % kLanes] + (r[i] * r[i]);
    if (b.lanes == nullptr) continue;
    for (Index lane = 0; lane < kLanes && lane < n; ++lane) {
      double factors[kRounds];
      const T* lane_rows[kRounds];
      Index k = 0;
      for (Index i = lane; i < n; i += kLanes, ++k) factors[k] = r[i], lane_rows[k] = rows[i];
      double* sums = b.lanes + lane * padded;
      if (k == 4) {
        add_scaled_rows<T, 4>(sums, first == 0, factors, lane_rows, p);
      } else {
        for (Index i = 0; i < k; ++i) {
          add_scaled_rows<T, 1>(sums, first == 0 && i == 0, factors + i, lane_rows + i, p);
        }
      }
    }
  }

  for (Index half = kLanes / 2; half > 0; half /= 2) {
    for (Index l = 0; l < half; ++l) squares[l] = squares[l] + squares[l + half];
  }
  *b.square_sum = squares[0];
  if (b.lanes == nullptr) return;
  // Lanes without a row count as +0: nothing to add.
  Index used = b.count < kLanes ? b.count : kLanes;
  for (Index half = kLanes / 2; half > 0; half /= 2) {
    for (Index l = 0; l + half < used; ++l) add_sums(b.lanes + l * padded, b.lanes + (l + half) * padded, p);
    if (used > half) used = half;
  }
  for (Index j = 0; j < p; ++j) b.gradient_sums[j] = b.lanes[j];
}

template <class T>
void mse_gradient(Scale scale, Index rows, const double* sums, Index p, void* g) {
  const double c = factor_of(scale, rows);
  T* out = static_cast<T*>(g);
  for (Index j = 0; j < p; ++j) out[j] = mse_gradient_element<T>(c, sums[j]);
}

template <class T>
void mse_widen(const void* w, Index p, double* wide) {
  for (Index j = 0; j < p; ++j) wide[j] = static_cast<const T*>(w)[j];
}

// The gradient of one row's error, for online descent: the same sums, most of which have a single term.
template <class T>
void mse_row(const void* row, const void* y, const void* w, Index p, Scale scale, void* g) {
  const double c = factor_of(scale, 1);
  const T* x = static_cast<const T*>(row);
  T* __restrict out = static_cast<T*>(g);
  double r = mse_residual(dot(x, static_cast<const T*>(w), p), *static_cast<const T*>(y));
  // 0.0 +: a lane starts at +0, which turns a product of -0 into +0.
  for (Index j = 0; j < p; ++j) out[j] = mse_gradient_element<T>(c, 0.0 + (r * static_cast<double>(x[j])));
}

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
