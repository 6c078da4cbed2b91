// The loop over the functions of one value. No formulas: those are in contract/functions.h.
#pragma once
#include "contract/functions.h"
#include "contract/types.h"

namespace samestep {
namespace {

// The elements of the next loop are independent, also where it writes over what it reads.
#ifdef __clang__
#define ELEMENTWISE _Pragma("clang loop vectorize(assume_safety)")
#else
#define ELEMENTWISE _Pragma("GCC ivdep")
#endif

// out_i = F(x_i), i = 0..n-1; out may be x.
template <class F, class T>
void map(const void* x, Index n, void* out) {
  const T* from = static_cast<const T*>(x);
  T* to = static_cast<T*>(out);
  ELEMENTWISE
  for (Index i = 0; i < n; ++i) to[i] = F::of(from[i]);
}

}  // namespace
}  // namespace samestep
