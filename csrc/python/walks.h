// Which arrays one flat loop over memory walks together, whatever library they come from.
#pragma once

#include "isa/kernels.h"

namespace samestep {

// An array's axes: how many, their lengths, and their strides in units of which an element has `element`.
template <class Int>
struct Axes {
  int n;
  const Int *shape, *strides;
  Index element;
};

// Whether two arrays have the same shape, and the same index lies equally many elements from the start in both. An axis
// of length 1 has no stride to compare, and an empty array none at all.
template <class A, class B>
bool walk_together(const Axes<A>& a, const Axes<B>& b) {
  if (a.n != b.n) return false;
  bool same_strides = true, is_empty = false;
  for (int d = 0; d < a.n; ++d) {
    if (a.shape[d] != b.shape[d]) return false;
    is_empty = is_empty || a.shape[d] == 0;
    same_strides = same_strides && (a.strides[d] * b.element == b.strides[d] * a.element || a.shape[d] <= 1);
  }
  return same_strides || is_empty;
}

}  // namespace samestep
