// The matrix product on a GPU. The formulas are those of contract/product.h; backends/gpu/product.py launches
// multiply, and for gradients before that relu_gradient, and round_sums after the sum over the rows.
#pragma once
#include "contract/product.h"
#include "contract/types.h"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

constexpr Index kSide = 64;   // rows and columns of C that a block of threads computes
constexpr Index kSlice = 16;  // terms that lie in shared memory at a time; they fill a block of the contract evenly
constexpr int kOwn = 4;       // rows and columns of C that a thread computes
static_assert(kProductBlock % kSlice == 0, "a slice belongs to one block of terms");

// Product's fields (contract/types.h), each of 8 bytes.
struct ProductArguments {
  Index m, n, k;
  const void *a, *b, *bias;
  Index a_row, a_k, b_k, b_column;
  void* c;
  Index c_row, relu;
};

// to (kSlice, kSide) = x (count, depth)^T, of strides `across` and `along`. Neighbouring threads read neighbours in
// memory. Beyond count, values are +0, and their results are not stored.
template <class T>
inline void load_slice(const T* x, Index across, Index along, Index count, Index depth, T (&to)[kSlice][kSide]) {
  for (Index t = threadIdx.x; t < kSlice * kSide; t += blockDim.x) {
    const Index i = along == 1 ? t / kSlice : t % kSide, p = along == 1 ? t % kSlice : t / kSide;
    to[p][i] = i < count && p < depth ? x[i * across + p * along] : T(0);
  }
}

// A block of threads computes kSide x kSide elements of C; thread t those of rows 4*(t/16).. and columns 4*(t%16)..,
// or more of them where there are fewer threads.
template <class T>
void multiply(const ProductArguments& q) {
  __shared__ T a[kSlice][kSide], b[kSlice][kSide];
  const Index tiles = ceil_div(q.n, kSide), row = blockIdx.x / tiles * kSide, column = blockIdx.x % tiles * kSide;
  const T *A = static_cast<const T*>(q.a) + row * q.a_row, *B = static_cast<const T*>(q.b) + column * q.b_column;
  constexpr Index kAcross = kSide / kOwn;
  for (Index first = 0; first < kAcross * kAcross; first += blockDim.x) {
    const Index own = first + threadIdx.x, top = own / kAcross % kAcross * kOwn, left = own % kAcross * kOwn;
    T c[kOwn][kOwn] = {}, s[kOwn][kOwn] = {};
    for (Index k = 0; k < q.k; k += kSlice) {
      const Index depth = smaller(kSlice, q.k - k);
      if (k > 0 && k % kProductBlock == 0) {  // the block of terms is complete
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
#pragma unroll
          for (int j = 0; j < kOwn; ++j) c[i][j] = k == kProductBlock ? s[i][j] : c[i][j] + s[i][j], s[i][j] = T(0);
        }
      }
      load_slice(A + k * q.a_k, q.a_row, q.a_k, q.m - row, depth, a);
      load_slice(B + k * q.b_k, q.b_column, q.b_k, q.n - column, depth, b);
      __syncthreads();
      for (Index p = 0; p < depth; ++p) {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
#pragma unroll
          for (int j = 0; j < kOwn; ++j) s[i][j] = fused(a[p][top + i], b[p][left + j], s[i][j]);
        }
      }
      __syncthreads();
    }
    if (own >= kAcross * kAcross) continue;
    for (int i = 0; i < kOwn && row + top + i < q.m; ++i) {
      for (int j = 0; j < kOwn && column + left + j < q.n; ++j) {
        T y = q.k <= kProductBlock ? s[i][j] : c[i][j] + s[i][j];
        if (q.bias != nullptr) y = y + static_cast<const T*>(q.bias)[column + left + j];
        if (q.relu != 0) y = relu_of(y);
        static_cast<T*>(q.c)[(row + top + i) * q.c_row + column + left + j] = y;
      }
    }
  }
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
