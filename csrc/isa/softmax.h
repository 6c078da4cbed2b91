// The loops over a row of logits. No formulas: those are in contract/softmax.h.
#pragma once
#include "contract/softmax.h"
#include "contract/sums.h"
#include "contract/types.h"
#include "contract/vector.h"
#include "isa/functions.h"

namespace samestep {
namespace {

// m of z (n).
template <class T>
inline T largest(const T* z, Index n) {
  using V = typename Vectors<T>::Full;
  constexpr Index kStep = kVectorBytes / sizeof(T), kHeld = 4;
  T m = z[0];
  Index j = 0;
  if (n >= kHeld * kStep) {
    V held[kHeld];
    for (V& h : held) h = V{} + m;
    for (; j + kHeld * kStep <= n; j += kHeld * kStep) {
#pragma GCC unroll 4
      for (Index v = 0; v < kHeld; ++v) held[v] = larger(load<V>(z + j + v * kStep), held[v]);
    }
    const V most = larger(larger(held[0], held[1]), larger(held[2], held[3]));
    for (Index k = 0; k < kStep; ++k) m = larger(most[k], m);
  }
  for (; j < n; ++j) m = larger(z[j], m);
  return m;
}

// e_j = exp(z_j - m), j = 0..n-1, and their csum.
template <class T>
inline double exponentials(const T* z, T m, Index n, T* e) {
  Pairing blocks;
  for (Index begin = 0; begin < n; begin += kSumBlock) {
    const Index count = n - begin < kSumBlock ? n - begin : kSumBlock;
    buffered([m](T z_j) { return Exp::of(z_j - m); }, z + begin, count, e + begin);
    const T* in[] = {e};
    double sum;
    run_block(Values<T>{}, in, begin, count, &sum, 1);
    blocks.add(sum);
  }
  return blocks.total();
}

// Rows begin..end-1 of z (rows, columns): their losses (rows) and the gradient dz, like z; dz may be z.
template <class T>
void softmax_rows(const Softmax& a, Index begin, Index end) {
  const T rows = static_cast<T>(a.rows);
  const bool is_power_of_2 = (a.rows & (a.rows - 1)) == 0;
  for (Index i = begin; i < end; ++i) {
    const T* z = static_cast<const T*>(a.z) + i * a.columns;
    T* dz = static_cast<T*>(a.dz) + i * a.columns;
    const Index label = a.labels[i];
    const T m = largest(z, a.columns), d_label = z[label] - m;
    const T s = static_cast<T>(exponentials(z, m, a.columns, dz)), e_label = dz[label];
    static_cast<T*>(a.losses)[i] = softmax_loss(s, d_label);
    if (is_power_of_2) {  // its reciprocal is exact, and so the product is the quotient
      const T per_row = T(1) / rows;
      for (Index j = 0; j < a.columns; ++j) dz[j] = (dz[j] / s) * per_row;
    } else {
      for (Index j = 0; j < a.columns; ++j) dz[j] = softmax_gradient(dz[j], s, T(0), rows);
    }
    dz[label] = softmax_gradient(e_label, s, T(1), rows);
  }
}

// L of the sum of all losses.
inline double softmax_mean(double sum, Index rows) { return sum / static_cast<double>(rows); }

}  // namespace
}  // namespace samestep
