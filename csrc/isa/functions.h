// The loop over the functions of one value. No formulas: those are in contract/functions.h.
#pragma once
#include "contract/functions.h"
#include "contract/types.h"

namespace samestep {
namespace {

constexpr Index kBuffered = 512;  // elements

// to_i = formula(from_i), i = 0..n-1; `to` may be `from`. By way of a buffer: as the compiler sees, what its loop
// writes is not what it reads, and so it vectorises.
template <class T, class Formula>
inline void buffered(const Formula& formula, const T* from, Index n, T* to) {
  T buffer[kBuffered];
  for (Index begin = 0; begin < n; begin += kBuffered) {
    const Index count = n - begin < kBuffered ? n - begin : kBuffered;
    for (Index j = 0; j < count; ++j) buffer[j] = formula(from[begin + j]);
    __builtin_memcpy(to + begin, buffer, count * sizeof(T));
  }
}

// out_i = F(x_i), i = 0..n-1; out may be x.
template <class F, class T>
void map(const void* x, Index n, void* out) {
  buffered([](T x_i) { return F::of(x_i); }, static_cast<const T*>(x), n, static_cast<T*>(out));
}

}  // namespace
}  // namespace samestep
