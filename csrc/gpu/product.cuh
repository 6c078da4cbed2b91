// The matrix product on a GPU. The formulas are those of contract/product.h; backends/gpu/product.py launches
// multiply, and for gradients before that relu_gradient, and round_sums after the sum over the rows. convolution.cuh
// has tiles of its own operands.
#pragma once
#include "contract/product.h"
#include "contract/types.h"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

// A block of kMultipliers threads computes side x side elements of C, each thread own x own of them.
constexpr int kMultipliers = 256, kAcross = 16;  // threads; of a row of them
constexpr Index kSide = 64;                      // of a tile where each thread has 4 x 4
constexpr Index kLargeSide = 128;                // 8 x 8
constexpr Index kSlice = 16;  // terms that lie in shared memory at a time; they fill a block of the contract evenly
static_assert(kProductBlock % kSlice == 0, "a slice belongs to one block of terms");

// Product's fields (contract/types.h), each of 8 bytes.
struct ProductArguments {
  Index m, n, k;
  const void *a, *b, *bias;
  Index a_row, a_k, b_k, b_column;
  void* c;
  Index c_row, relu;
};

// A slice of A^T or B in shared memory, (kSlice, side). The gaps between rows put what the threads of a warp store at
// the same time into different banks: 16 neighbours of one term, and 16 of another, n terms further on (see Share).
template <class T, Index side>
using Slice = T[kSlice][side + 4];

// What a thread loads of a slice: packs of n neighbours of one term or, by_terms, of n terms, where these are
// neighbours in memory. There two threads read 32 bytes in a row, the least that memory delivers.
template <class T, Index side>
struct Share {
  static constexpr int n = Full<T>::kSize, kPacks = side * kSlice / n / kMultipliers;
  static_assert(kPacks * n * kMultipliers == side * kSlice, "all threads load equally much");
  struct Place {
    int i, p;
  };

  // Of pack q: its first value is i of term p.
  static Place place(int q, bool by_terms) {
    const int unit = threadIdx.x + q * kMultipliers;
    if (by_terms) return {unit / 2 % int(side), (unit / (2 * int(side)) * 2 + unit % 2) * n};
    return {unit * n % int(side), unit * n / int(side)};
  }

  void store(Slice<T, side>& to, bool by_terms) const {
#pragma unroll
    for (int q = 0; q < kPacks; ++q) {
      const Place at = place(q, by_terms);
      if (by_terms) {
#pragma unroll
        for (int e = 0; e < n; ++e) to[at.p + e][at.i] = packs[q].at[e];
      } else {
        store_pack(&to[at.p][at.i], packs[q]);
      }
    }
  }

  Full<T> packs[kPacks];
};

// A tile's rows of A, or columns of B: value i of term p is x[i*across + p*along], 0 <= i < count.
template <class T, Index side>
class Operand {
 public:
  Operand(const T* x, Index across, Index along, Index first, Index count)
      : x_(x + first * across),
        across_(across),
        along_(along),
        count_(smaller(side, count - first)),
        by_terms_(along == 1 && across != 1),
        aligned_(is_aligned(x_) && (by_terms_ ? across % n == 0 : across == 1 && along % n == 0)) {}

  // Loads this thread's share of terms k .. k + depth - 1. Beyond count and depth, values are +0, whose results are
  // dropped.
  void load(Index k, Index depth) {
#pragma unroll
    for (int q = 0; q < Share<T, side>::kPacks; ++q) {
      const auto at = share_.place(q, by_terms_);
      const T* const from = x_ + at.i * across_ + (k + at.p) * along_;
      const bool whole = by_terms_ ? at.i < count_ && at.p + n <= depth : at.i + n <= count_ && at.p < depth;
      if (aligned_ && whole) {
        share_.packs[q] = load_pack<Full<T>>(from);
        continue;
      }
#pragma unroll
      for (int e = 0; e < n; ++e) {
        const Index i = at.i + (by_terms_ ? 0 : e), p = at.p + (by_terms_ ? e : 0);
        share_.packs[q].at[e] = i < count_ && p < depth ? from[e * (by_terms_ ? along_ : across_)] : T(0);
      }
    }
  }

  void store(Slice<T, side>& to) const { share_.store(to, by_terms_); }

 private:
  static constexpr int n = Full<T>::kSize;

  const T* const x_;
  const Index across_, along_, count_;
  const bool by_terms_, aligned_;
  Share<T, side> share_;
};

// C (m, n), of k terms: where a tile of it goes, and what is done with it first.
template <class T>
struct Target {
  Index m, n, k;
  T* c;
  Index c_row;
  const T *column_bias, *row_bias;  // (n) and (m), or nullptr
  bool relu;
};

// The tile of C from (row, column) on. A and B load the slices, one after the other. Of two slices in shared memory,
// threads multiply one and fill the other. A thread's rows and columns are packs of n, kAcross*n apart, so that
// neighbours in a warp read neighbouring packs.
template <class T, Index side, class RowsOfA, class ColumnsOfB>
inline void multiply_tile(RowsOfA& A, ColumnsOfB& B, Index row, Index column, const Target<T>& q) {
  constexpr int n = Full<T>::kSize, own = side / kAcross, kGroups = own / n;
  alignas(16) __shared__ Slice<T, side> a[2], b[2];
  const int top = threadIdx.x / kAcross * n, left = threadIdx.x % kAcross * n;

  T c[own][own] = {}, s[own][own] = {};
  const auto add_term = [&](int slice, int p) {
    Full<T> x[kGroups], y[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      x[g] = load_pack<Full<T>>(&a[slice][p][g * kAcross * n + top]);
      y[g] = load_pack<Full<T>>(&b[slice][p][g * kAcross * n + left]);
    }
#pragma unroll
    for (int i = 0; i < own; ++i) {
#pragma unroll
      for (int j = 0; j < own; ++j) s[i][j] = fused(x[i / n].at[i % n], y[j / n].at[j % n], s[i][j]);
    }
  };

  int slice = 0;
  A.load(0, smaller(kSlice, q.k)), B.load(0, smaller(kSlice, q.k));
  A.store(a[0]), B.store(b[0]);
  __syncthreads();
  for (Index k = 0; k < q.k; k += kSlice, slice ^= 1) {
    const Index next = k + kSlice;
    if (next < q.k) A.load(next, smaller(kSlice, q.k - next)), B.load(next, smaller(kSlice, q.k - next));
    if (k > 0 && k % kProductBlock == 0) {  // the block of terms is complete
#pragma unroll
      for (int i = 0; i < own; ++i) {
#pragma unroll
        for (int j = 0; j < own; ++j) c[i][j] = k == kProductBlock ? s[i][j] : c[i][j] + s[i][j], s[i][j] = T(0);
      }
    }
    if (next <= q.k) {
#pragma unroll
      for (int p = 0; p < kSlice; ++p) add_term(slice, p);
    } else {
#pragma unroll 1
      for (int p = 0; p < q.k - k; ++p) add_term(slice, p);
    }
    if (next < q.k) {
      A.store(a[slice ^ 1]), B.store(b[slice ^ 1]);
      __syncthreads();
    }
  }

  const bool aligned = is_aligned(q.c) && q.c_row % n == 0;
#pragma unroll
  for (int i = 0; i < own; ++i) {
    const Index to_row = row + i / n * kAcross * n + top + i % n;
    const T row_bias = q.row_bias != nullptr && to_row < q.m ? q.row_bias[to_row] : T(0);
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const Index to_column = column + g * kAcross * n + left;
      T* const to = q.c + to_row * q.c_row + to_column;
      Full<T> y;
#pragma unroll
      for (int e = 0; e < n; ++e) {
        y.at[e] = q.k <= kProductBlock ? s[i][g * n + e] : c[i][g * n + e] + s[i][g * n + e];
        if (q.column_bias != nullptr && to_column + e < q.n) y.at[e] = y.at[e] + q.column_bias[to_column + e];
        if (q.row_bias != nullptr) y.at[e] = y.at[e] + row_bias;
        if (q.relu) y.at[e] = relu_of(y.at[e]);
      }
      if (to_row >= q.m) continue;
      if (aligned && to_column + n <= q.n) {
        store_pack(to, y);
        continue;
      }
#pragma unroll
      for (int e = 0; e < n; ++e) {
        if (to_column + e < q.n) to[e] = y.at[e];
      }
    }
  }
}

// A block of threads computes one tile.
template <class T, Index side>
void multiply(const ProductArguments& q) {
  const Index tiles = ceil_div(q.n, side), row = blockIdx.x / tiles * side, column = blockIdx.x % tiles * side;
  Operand<T, side> a(static_cast<const T*>(q.a), q.a_row, q.a_k, row, q.m);
  Operand<T, side> b(static_cast<const T*>(q.b), q.b_column, q.b_k, column, q.n);
  const Target<T> c{q.m, q.n, q.k, static_cast<T*>(q.c), q.c_row, static_cast<const T*>(q.bias), nullptr, q.relu != 0};
  multiply_tile<T, side>(a, b, row, column, c);
}

// out (rows, columns) without gaps = dy, +0 wherever y <= 0, unless y is nullptr: a thread computes one element.
struct ReluGradientArguments {
  const void *dy, *y;
  Index rows, columns, dy_row, dy_column, y_row, y_column;
  void* out;
};

template <class T>
void relu_gradient(const ReluGradientArguments& g) {
  const Index e = thread_number();
  if (e >= g.rows * g.columns) return;
  const Index i = e / g.columns, j = e % g.columns;
  const T dy = static_cast<const T*>(g.dy)[i * g.dy_row + j * g.dy_column];
  const T* y = static_cast<const T*>(g.y);
  static_cast<T*>(g.out)[e] = y == nullptr ? dy : relu_gradient_of(dy, y[i * g.y_row + j * g.y_column]);
}

// out_i = T(sums_i): a thread rounds one.
struct RoundArguments {
  const double* sums;  // (n)
  Index n;
  void* out;  // (n)
};

template <class T>
void round_sums(const RoundArguments& r) {
  const Index i = thread_number();
  if (i < r.n) static_cast<T*>(r.out)[i] = T(r.sums[i]);
}

}  // namespace
}  // namespace samestep
