// Leaves: numbered parts of one step, whose gradients are added in an order that does not depend on who computed them.
// The formulas, and the loops over elements in main memory; no threads. The NumPy twin is backends/reference/leaves.py.
//
//   weigh     l_i = T(weight)*g_i; a leaf of weight 0 is +0, whatever its gradient holds
//   add       s_i = a_i + b_i, where a is the sum of the leaves with the lower numbers
//   average   m_i = s_i/T(weight), with the number of leaves or the sum of their weights: one division, after all sums
//
// Leaves 0..M-1 are added as the blocks of a canonical sum are paired (sums.h): 0+1, 2+3, ..., an odd last one is
// carried up, until one is left. Who adds, and how the vectors are cut for it, changes no bit.
#pragma once
#include "contract/fp.h"
#include "contract/types.h"

namespace samestep {
namespace {

// l_i = T(weight)*g_i
template <class T>
struct Weighed {
  const T weight;
  HD T operator()(T g) const { return weight * g; }
};

// s_i = a_i + b_i
template <class T>
struct Added {
  HD T operator()(T a, T b) const { return a + b; }
};

// m_i = s_i/T(weight)
template <class T>
struct Averaged {
  const T weight;
  HD T operator()(T total) const { return total / weight; }
};

#ifndef __CUDACC__  // of a GPU, the loops are in gpu/leaves.cuh

// out (n) may be g (n), which is not read with weight 0.
template <class T>
void weigh_leaf(double weight, const void* g, Index n, void* out) {
  const T* from = static_cast<const T*>(g);
  T* to = static_cast<T*>(out);
  if (weight == 0.0) {
    for (Index i = 0; i < n; ++i) to[i] = T(0);
    return;
  }
  const Weighed<T> weighed{T(weight)};
  for (Index i = 0; i < n; ++i) to[i] = weighed(from[i]);
}

// sum (n) and other (n) share no memory.
template <class T>
void add_leaves(const void* other, Index n, void* sum) {
  const T* __restrict b = static_cast<const T*>(other);
  T* __restrict a = static_cast<T*>(sum);
  const Added<T> added{};
  for (Index i = 0; i < n; ++i) a[i] = added(a[i], b[i]);
}

// out (n) may be total (n).
template <class T>
void average_leaves(double weight, const void* total, Index n, void* out) {
  const T* from = static_cast<const T*>(total);
  T* to = static_cast<T*>(out);
  const Averaged<T> averaged{T(weight)};
  for (Index i = 0; i < n; ++i) to[i] = averaged(from[i]);
}

#endif

}  // namespace
}  // namespace samestep
