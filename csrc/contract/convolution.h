// Convolution in two dimensions: matrix products (product.h) with the patches of the input. No loops over memory. The
// loops of a processor are in isa/convolution.h, those of a GPU in gpu/convolution.cuh; the NumPy twin is
// backends/reference/convolution.py.
//
// The patches of a sample n are a matrix of K = C*R*S rows k = (c, r, s), in the order of the weight (O, C, R, S), and
// P = H'*W' columns p = (h', w'), the last index running fastest:
//   patches[n][k, p] = x[n, c, h'*stride + r*dilation - padding, w'*stride + s*dilation - padding],  +0 outside of x
// A +0 of the padding is a term like any other, fma(w, +0, s). Each group of channels is a convolution of its own.
//
//   forward    y[n] (O, P) = product(w (O, K), patches[n]) + bias, then ReLU
//   backward   dw (O, K) = product(dy (O, N*P), patches^T (N*P, K)): the terms (n, p) in order, over the whole batch
//              dbias_o = T(csum over the terms (n, p) of dy)
//              dpatches[n] (K, P) = product(w^T (K, O), dy[n] (O, P))
//              dx[n, c, h, w] = +0, then + each of its dpatches[n][(c, r, s), p], in the order of (r, s)
//              with ReLU, dy is +0 in these wherever y <= 0
#pragma once
#include "contract/product.h"
#include "contract/types.h"

namespace samestep {
namespace {

// Along one axis: outputs begin..end-1.
struct OutputRange {
  Index begin, end;
};

// Where along an axis (0: rows) output `out` finds its input for a tap of the kernel; outside of 0..size-1 it is +0.
inline Index input_of(const Convolution& v, int axis, Index out, Index tap) {
  return out * v.stride[axis] + tap * v.dilation[axis] - v.padding[axis];
}

// The output that finds input `in` for a tap; -1 where none does.
inline Index output_of(const Convolution& v, int axis, Index in, Index tap) {
  const Index apart = in + v.padding[axis] - tap * v.dilation[axis], out = apart / v.stride[axis];
  return apart >= 0 && out * v.stride[axis] == apart && out < v.out_size[axis] ? out : -1;
}

// The outputs whose input for a tap lies in first..last-1, which lie in 0..size-1.
inline OutputRange outputs_of(const Convolution& v, int axis, Index first, Index last, Index tap) {
  const Index shift = v.padding[axis] - tap * v.dilation[axis], stride = v.stride[axis];
  const auto up = [&](Index i) { return i <= 0 ? 0 : ceil_div(i, stride); };
  const Index end = up(last + shift), begin = up(first + shift);
  return {begin, end < v.out_size[axis] ? end : v.out_size[axis]};
}

}  // namespace
}  // namespace samestep
