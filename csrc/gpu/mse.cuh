// The mean squared error on a GPU. The formulas and shapes are those of contract/mse.h; backends/gpu/mse.py launches
// residuals, then gradient_blocks, pair_rows and gradient, or a sum of squares and loss.
#pragma once
#include "contract/mse.h"
#include "contract/types.h"
#include "gpu/sums.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

struct MseArguments {
  const void *Phi, *y, *w;  // (n, p), (n), (p)
  const Index* rows;        // (count), of the batch; nullptr: 0, 1, 2, ...
  Index count, p;
  Scale scale;
  void* r;                // (count)
  double* sums;           // block sums (blocks, p)
  const double* squares;  // (1), csum(r_i*r_i)
  void* g;                // (p)
  double* loss;           // (1)
};

inline Index row_of(const MseArguments& a, Index i) { return a.rows != nullptr ? a.rows[i] : i; }

// r_i = T(csum_j(Phi_ij*w_j) - y_i): a warp computes one.
template <class T>
void residuals(const MseArguments& a) {
  const Index i = warp_number();
  if (i >= a.count) return;
  const Index row = row_of(a, i);
  const T *x = static_cast<const T*>(a.Phi) + row * a.p, *w = static_cast<const T*>(a.w);
  const auto add = [&](Index j, double* sums) { sums[0] = add_product<T>(sums[0], widen(x[j]), widen(w[j])); };
  // Block by block, since all lanes of the warp take part in each; thread 0 holds the block's sum.
  Pairing blocks;
  for (Index first = 0; first < a.p; first += kSumBlock) {
    double sum = 0.0;
    warp_block<1>(add, first, smaller(a.p, first + kSumBlock), &sum, 0);
    blocks.add(sum);
  }
  if (threadIdx.x % kWarp == 0) {
    static_cast<T*>(a.r)[i] = mse_residual(blocks.total(), static_cast<const T*>(a.y)[row]);
  }
}

// The block sums of csum_i(r_i*Phi_ij): a block of threads sums one block of rows for kTile columns.
template <class T>
void gradient_blocks(const MseArguments& a) {
  const Index tiles = ceil_div(a.p, kTile), column = blockIdx.x % tiles * kTile, block = blockIdx.x / tiles;
  const T *Phi = static_cast<const T*>(a.Phi) + column, *r = static_cast<const T*>(a.r);
  const auto add = [&](Index i, Index j, double* sums) {
    sums[0] = add_product<T>(sums[0], widen(r[i]), widen(Phi[row_of(a, i) * a.p + j]));
  };
  const Index first = block * kSumBlock;
  tile_block<1>(add, first, smaller(a.count, first + kSumBlock), smaller(kTile, a.p - column),
                a.sums + block * a.p + column, 0);
}

// g_j = T(c*sum_j): a thread computes one, from the paired sums in the first row.
template <class T>
void gradient(const MseArguments& a) {
  const Index j = thread_number();
  if (j < a.p) static_cast<T*>(a.g)[j] = mse_gradient_element<T>(factor_of(a.scale, a.count), a.sums[j]);
}

void loss(const MseArguments& a) { *a.loss = mse_loss(a.scale, a.count, *a.squares); }

}  // namespace
}  // namespace samestep
