// Softmax with cross-entropy on a GPU. The formulas are those of contract/softmax.h; backends/gpu/softmax.py launches
// softmax_rows, then sums the losses.
#pragma once
#include "contract/softmax.h"
#include "contract/types.h"
#include "gpu/sums.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

struct SoftmaxArguments {
  const void* z;  // (rows, columns)
  const Index* labels;
  Index rows, columns;
  void *losses, *dz;  // (rows), (rows, columns)
};

// One row, which a warp computes: thread l has columns l, l + 32, ...
template <class T>
void softmax_rows(const SoftmaxArguments& a) {
  const Index i = warp_number(), lane = threadIdx.x % kWarp;
  if (i >= a.rows) return;
  const T* z = static_cast<const T*>(a.z) + i * a.columns;
  T* dz = static_cast<T*>(a.dz) + i * a.columns;
  const Index label = a.labels[i];
  // m: of each thread's columns, from z_0 on, then of all threads; the first thread's goes to all.
  T m = z[0];
  for (Index j = lane; j < a.columns; j += kWarp) m = larger(z[j], m);
  for (int half = kWarp / 2; half > 0; half /= 2) m = larger(__shfl_down_sync(0xffffffffu, m, half), m);
  m = __shfl_sync(0xffffffffu, m, 0);
  const T d_label = z[label] - m;
  // e_j to dz, and s.
  Pairing blocks;
  const auto add = [&](Index j, double* sums) {
    dz[j] = Exp::of(z[j] - m);
    sums[0] = sums[0] + widen(dz[j]);
  };
  for (Index first = 0; first < a.columns; first += kSumBlock) {
    double sum = 0.0;
    warp_block<1>(add, first, smaller(a.columns, first + kSumBlock), &sum, 0);
    blocks.add(sum);
  }
  const T s = static_cast<T>(__shfl_sync(0xffffffffu, blocks.total(), 0));
  if (lane == 0) static_cast<T*>(a.losses)[i] = softmax_loss(s, d_label);
  for (Index j = lane; j < a.columns; j += kWarp) {
    dz[j] = softmax_gradient(dz[j], s, T(j == label ? 1 : 0), static_cast<T>(a.rows));
  }
}

}  // namespace
}  // namespace samestep
