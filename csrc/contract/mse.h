// The mean squared error of a linear model, L(w) = (c/2)|Phi w - y|^2 (Goodfellow et al. 5.1.4): residual, gradient and
// loss in one pass over the rows. No threads and no memory of its own: run/mse_problem.cpp cuts the rows into blocks.
// The NumPy twin is backends/reference/mse.py.
//
//   r_i = T(csum_j(Phi_ij*w_j) - y_i)     g_j = T(c*csum_i(r_i*Phi_ij))     L = (c/2)*csum_i(r_i*r_i)
//   Phi (n, p), w (p), y (n); r (n), g (p), L (1)
//
// csum is the canonical sum (sums.h): float64, blocks of 1024 terms, 32 lanes a block, lanes halved, blocks paired. In
// the sum over j, lane j%32 lies along a row of Phi. In the sum over i, all p columns are summed at once, so that lane
// i%32 is a row of p sums.
#pragma once
#include "contract/fetch.h"
#include "contract/sums.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {  // internal linkage: see rules.h

// ---- formulas ----

// r_i = T(sum - y_i), sum = csum_j(Phi_ij*w_j)
template <class T>
inline T mse_residual(double sum, T y) {
  return static_cast<T>(sum - static_cast<double>(y));
}

// c, or c/n: of a mean, not a sum.
inline double factor_of(Scale scale, Index rows) {
  return scale.per_row ? scale.factor / static_cast<double>(rows) : scale.factor;
}

// g_j = T(c*sum), sum = csum_i(r_i*Phi_ij), c from factor_of()
template <class T>
inline T mse_gradient_element(double c, double sum) {
  return static_cast<T>(c * sum);
}

// L = (c/2)*squares, squares = csum_i(r_i*r_i)
inline double mse_loss(Scale scale, Index rows, double squares) { return (factor_of(scale, rows) / 2.0) * squares; }

#ifndef __CUDACC__  // a GPU's loops are in gpu/mse.cuh
// ---- loops ----

constexpr int kVectorsOfLanes = kLanes / kWidth;
// Rows of Phi added to a lane at a time: its sums are loaded and stored once for the four.
constexpr Index kRowsPerLane = 4;

// kWidth elements, widened to doubles.
template <class T>
inline Doubles wide(const T* from) {
  return widen(load<typename Vectors<T>::Terms>(from));
}

// The first n <= kWidth elements, widened, then zeros. Memory after them is not read: it may not be mapped.
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

// Halves the kWidth lanes of one vector: a_j = a_j + a_{j + kWidth/2}, then + a_{j + kWidth/4}, ...; returns a_0.
inline double halve_vector(Doubles a) {
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

// Halves the lanes in n vectors; returns their sum.
template <int n>
inline double halve(Doubles* lanes) {
  if constexpr (n == 1) {
    return halve_vector(lanes[0]);
  } else {
#pragma GCC unroll 8
    for (int v = 0; v < n / 2; ++v) lanes[v] = lanes[v] + lanes[v + n / 2];
    return halve<n / 2>(lanes);
  }
}

// The block sum of x_j*y_j over j = 0..n-1, n <= 1024. Unlike run_block of sums.h it keeps all lanes in registers: rows
// of Phi are short, and every row is a sum of its own.
template <class T, class U>
inline double dot_block(const T* x, const U* y, Index n) {
  Doubles lanes[kVectorsOfLanes] = {};
  Index j = 0;
  // Whole rounds of 32 terms, then what is left: lanes past the end add 0*0, which changes no lane.
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

// csum_j(x_j*y_j) over j = 0..n-1.
template <class T, class U>
inline double dot(const T* x, const U* y, Index n) {
  if (n <= kSumBlock) return dot_block(x, y, n);
  Pairing blocks;
  for (Index j = 0; j < n; j += kSumBlock) blocks.add(dot_block(x + j, y + j, n - j < kSumBlock ? n - j : kSumBlock));
  return blocks.total();
}

#if defined(__AVX512F__)
// out (4) = dot() of four rows of n <= 1024 terms with w (n). w is loaded once for the four, and their lanes are halved
// together: 40 % faster on rows of 10; neighbours of 64 and more, which come from memory, 10 % slower. The other
// instruction sets have too few registers.
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
  // Lane j + lane j+4, of two rows in one vector; + lane j+2, of all four rows in one; + lane j+1.
  __m512d a = _mm512_shuffle_f64x2(sum[0], sum[1], 0x44) + _mm512_shuffle_f64x2(sum[0], sum[1], 0xee);
  __m512d b = _mm512_shuffle_f64x2(sum[2], sum[3], 0x44) + _mm512_shuffle_f64x2(sum[2], sum[3], 0xee);
  __m512d c = _mm512_shuffle_f64x2(a, b, 0x88) + _mm512_shuffle_f64x2(a, b, 0xdd);
  c = c + _mm512_permute_pd(c, 0x55);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) out[i] = c[2 * i];
}
#endif

constexpr Index kLongRow = 64;  // elements from which four neighbours at once are slower than one by one

// out (n) = dot() of n rows (p) with w (p). ahead > 0: also prefetches the rows `ahead` elements further on, the next
// group's. Otherwise memory would stand idle while this group's share of the gradient is added up, since the
// processor's own prefetcher stops where the reading stops (25 % faster on rows of 64 floats). One row per product:
// prefetching a whole group at once costs more than it gains.
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

// The same for kRowsPerLane*32 long rows, if as many follow: rows l, l + 32, l + 64 and l + 96 in turn, since memory
// delivers four streams faster than one. Prefetches the next group's counterparts of the first `fetched` rows of a
// lane.
template <class T>
inline void dot_lanes(const T* const* rows, const double* w, Index p, Index ahead, Index fetched, double* out) {
  for (Index l = 0; l < kLanes; ++l) {
#if defined(__AVX512F__)
    const T* lane_rows[kRowsPerLane];
    double sums[kRowsPerLane];
    for (int k = 0; k < kRowsPerLane; ++k) lane_rows[k] = rows[l + k * kLanes];
    for (Index k = 0; k < fetched; ++k) fetch<2>(lane_rows[k] + ahead, p);
    dot_four(lane_rows, w, p, sums);
    for (int k = 0; k < kRowsPerLane; ++k) out[l + k * kLanes] = sums[k];
#else
    for (int k = 0; k < kRowsPerLane; ++k) {
      const Index i = l + k * kLanes;
      if (k < fetched) fetch<2>(rows[i] + ahead, p);
      out[i] = dot(rows[i], w, p);
    }
#endif
  }
}

// sums_j = sums_j + r_k*row_kj for k = 0, 1, ..., n-1 in turn. sums (p), r (n), rows (n, p). start: sums are +0 before.
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

// a_j = a_j + b_j,  a and b (p)
inline void add_sums(double* __restrict a, const double* __restrict b, Index p) {
  for (Index j = 0; j < p; ++j) a[j] = a[j] + b[j];
}

// One block of a batch: its residuals, csum(r_i*r_i), and csum_i(r_i*Phi_ij) for all columns j. Rows of Phi are read
// from memory once, in groups of 32 to 128: a group stays in the cache between its residuals and its share of the
// gradient.
template <class T>
void mse_block(const MseBlock& b) {
  const T* Phi = static_cast<const T*>(b.Phi);
  const T* y = static_cast<const T*>(b.y);
  const Index p = b.p, padded = padded_columns(p);
  // A group and the lanes (32, p) must fit into the second-level cache together.
  constexpr Index kGroupBytes = 512 * 1024;
  Index rows_per_lane = kGroupBytes / (kLanes * p * static_cast<Index>(sizeof(T)));
  rows_per_lane = rows_per_lane < 1 ? 1 : rows_per_lane > kRowsPerLane ? kRowsPerLane : rows_per_lane;
  const Index group = rows_per_lane * kLanes;

  double squares[kLanes] = {};
  double r[kRowsPerLane * kLanes];
  const T* rows[kRowsPerLane * kLanes];
  for (Index first = 0; first < b.count; first += group) {
    // The addresses of the group's rows, drawn or consecutive.
    const Index n = b.count - first < group ? b.count - first : group;
    for (Index i = 0; i < n; ++i) {
      const Index at = b.begin + first + i;
      rows[i] = Phi + (b.rows != nullptr ? b.rows[at] : at) * p;
    }
    const bool more = b.rows == nullptr && first + 2 * group <= b.count;
    // r_i = T(dot(Phi_i, w) - y_i)
    const Index ahead = more ? group * p : 0;
    const bool by_lanes = more && p >= kLongRow && rows_per_lane == kRowsPerLane;
    // Of the next group's rows the last of each lane is prefetched with the gradient: memory is busy during both.
    const Index fetched = b.lanes != nullptr ? kRowsPerLane - 1 : kRowsPerLane;
    if (by_lanes) {
      dot_lanes(rows, b.w, p, ahead, fetched, r);
    } else {
      dot_rows(rows, n, b.w, p, ahead, r);
    }
    for (Index i = 0; i < n; ++i) {
      const Index at = b.begin + first + i;
      T rounded = mse_residual(r[i], y[b.rows != nullptr ? b.rows[at] : at]);
      r[i] = rounded;
      if (b.r != nullptr) static_cast<T*>(b.r)[at] = rounded;
    }
    // Row i goes to lane i%32, of the squares and of the gradient; a group is a multiple of 32 rows.
    for (Index i = 0; i < n; ++i) squares[i % kLanes] = squares[i % kLanes] + (r[i] * r[i]);
    // Lane by lane: sums_j += r_i*Phi_ij for the group's rows of that lane, all four at once where there are four.
    if (b.lanes == nullptr) continue;
    for (Index lane = 0; lane < kLanes && lane < n; ++lane) {
      double factors[kRowsPerLane];
      const T* lane_rows[kRowsPerLane];
      Index k = 0;
      for (Index i = lane; i < n; i += kLanes, ++k) factors[k] = r[i], lane_rows[k] = rows[i];
      double* sums = b.lanes + lane * padded;
      if (k == 4) {
        if (by_lanes) fetch<2>(lane_rows[fetched] + ahead, p);
        add_scaled_rows<T, 4>(sums, first == 0, factors, lane_rows, p);
      } else {
        for (Index i = 0; i < k; ++i) {
          add_scaled_rows<T, 1>(sums, first == 0 && i == 0, factors + i, lane_rows + i, p);
        }
      }
    }
  }

  // square_sum = the lanes of the squares, halved
  for (Index half = kLanes / 2; half > 0; half /= 2) {
    for (Index l = 0; l < half; ++l) squares[l] = squares[l] + squares[l + half];
  }
  *b.square_sum = squares[0];
  if (b.lanes == nullptr) return;
  // gradient_sums = the lanes of the gradient, halved. A lane without a row would be +0 and was never written: it is
  // left out, since a sum that started at +0 is not -0, and + 0 changes nothing else.
  Index used = b.count < kLanes ? b.count : kLanes;
  for (Index half = kLanes / 2; half > 0; half /= 2) {
    for (Index l = 0; l + half < used; ++l) add_sums(b.lanes + l * padded, b.lanes + (l + half) * padded, p);
    if (used > half) used = half;
  }
  for (Index j = 0; j < p; ++j) b.gradient_sums[j] = b.lanes[j];
}

// g_j = T(c*sums_j),  sums and g (p)
template <class T>
void mse_gradient(Scale scale, Index rows, const double* sums, Index p, void* g) {
  const double c = factor_of(scale, rows);
  T* out = static_cast<T*>(g);
  for (Index j = 0; j < p; ++j) out[j] = mse_gradient_element<T>(c, sums[j]);
}

// wide = double(w),  both (p): the sums over j widen w once and not once per row.
template <class T>
void mse_widen(const void* w, Index p, double* wide) {
  for (Index j = 0; j < p; ++j) wide[j] = static_cast<const T*>(w)[j];
}

// g (p) of one row (p), for online descent: r = T(dot(row, w) - y),  g_j = T(c*(r*row_j)). A sum over one row has a
// single term.
template <class T>
void mse_row(const void* row, const void* y, const void* w, Index p, Scale scale, void* g) {
  const double c = factor_of(scale, 1);
  const T* x = static_cast<const T*>(row);
  T* __restrict out = static_cast<T*>(g);
  double r = mse_residual(dot(x, static_cast<const T*>(w), p), *static_cast<const T*>(y));
  // 0.0 +: a lane starts at +0.0, which turns a product of -0 into +0.
  for (Index j = 0; j < p; ++j) out[j] = mse_gradient_element<T>(c, 0.0 + (r * static_cast<double>(x[j])));
}

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
