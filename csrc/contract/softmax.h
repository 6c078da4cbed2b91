// Softmax with cross-entropy: the loss of rows of logits z with one right column each, and its gradient.
//
// For row i of N, of T, with csum of sums.h and exp and log of functions.h:
//   m = z_i0, then m = z_ij > m ? z_ij : m for j = 1, 2, ...;   d_j = z_ij - m;   e_j = exp(d_j)
//   s = T(csum_j(e_j));   loss_i = log(s) - d_label
//   dz_ij = ((e_j/s) - [j = label])/T(N)
// L = csum_i(loss_i)/N, in float64. The NumPy twin is backends/reference/softmax.py.
//
// A row whose first logit is NaN has m = NaN, and any other NaN reaches s through its e_j: all of the row becomes NaN.
#pragma once
#include "contract/functions.h"
#include "contract/types.h"

namespace samestep {
namespace {

// m of the logits before and the next one. Vectors of maxima may be merged in any order: only the sign of a zero can
// differ, and no result depends on that, since exp(+0) = exp(-0).
template <class X>
inline HD X larger(X z, X m) {
  return z > m ? z : m;
}

template <class T>
inline HD T softmax_loss(T s, T d_label) {
  return Log::of(s) - d_label;
}

// Of the label's column; of the others `hit` is 0, which changes no bit.
template <class T>
inline HD T softmax_gradient(T e, T s, T hit, T rows) {
  return ((e / s) - hit) / rows;
}

}  // namespace
}  // namespace samestep
