// The canonical sum: one order of addition for every machine. No threads, no memory of its own beyond one block's.
//
// csum of M float64 terms k = 0..M-1: blocks of 1024; within a block lane k mod 32 starts at +0.0 and adds its terms in
// increasing k; lanes are halved (j with j+16, then +8, +4, +2, +1); block sums are paired (2i with 2i+1, an odd last
// one is carried up) until one is left. Its NumPy twin is python/samestep/backends/reference/sums.py.
//
// What is summed is told by a struct: kSums, how many sums run side by side, and
//   template <class X, class D> void operator()(const T* const* in, Index i, Index j, D* sums) const
// which adds to sums[0..kSums-1] the terms of elements i, i+1, ... of the arrays in[]: one term (X = T, D = double) or
// kWidth of them (X = Vectors<T>::Terms, D = Doubles). j is the column, for what differs by column.
//
// Whoever calls cuts the terms into blocks, keeps their sums in an array and ends with pair().
#pragma once
#include "contract/fetch.h"
#include "contract/fp.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {

constexpr Index kBlock = kSumBlock;
constexpr Index kLanes = 32;
constexpr Index kSlab = kSumColumns;  // their lanes are 128 KiB for two sums, within the second cache

// The terms x.
template <class T>
struct Values {
  static constexpr int kSums = 1;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index, D* sums) const {
    sums[0] = sums[0] + widen(load<X>(in[0] + i));
  }
};

// The terms x*x.
template <class T>
struct Squares {
  static constexpr int kSums = 1;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index, D* sums) const {
    D x = widen(load<X>(in[0] + i));
    sums[0] = add_product<T>(sums[0], x, x);
  }
};

#ifndef __CUDACC__  // a GPU's loops are in kernels.cu

// The lanes of one block, sum by sum.
template <int kSums>
struct Lanes {
  alignas(kVectorBytes) double lane[kSums][kLanes] = {};

  void halve(double* out, Index stride) {
    for (int s = 0; s < kSums; ++s) {
      for (Index half = kLanes / 2; half > 0; half /= 2) {
        for (Index j = 0; j < half; ++j) lane[s][j] = lane[s][j] + lane[s][j + half];
      }
      out[s * stride] = lane[s][0];
    }
  }
};

// Adds `groups` times 32 terms that lie one after the other from element i on; the first goes to lane 0.
template <class T, class Terms>
inline void add_groups(const Terms& terms, const T* const* in, Index i, Index groups, Lanes<Terms::kSums>& lanes) {
  constexpr int kSums = Terms::kSums;
  constexpr int kHeld = 8 / kSums < 4 ? 8 / kSums : 4;  // vectors of lanes held in registers at a time
  for (Index first = 0; first < kLanes; first += kHeld * kWidth) {
    Doubles sums[kHeld][kSums];
#pragma GCC unroll 8
    for (int v = 0; v < kHeld; ++v) {
#pragma GCC unroll 8
      for (int s = 0; s < kSums; ++s) sums[v][s] = load<Doubles>(&lanes.lane[s][first + v * kWidth]);
    }
    for (Index g = 0; g < groups; ++g) {
#pragma GCC unroll 8
      for (int v = 0; v < kHeld; ++v) {
        terms.template operator()<typename Vectors<T>::Terms>(in, i + g * kLanes + first + v * kWidth, 0, sums[v]);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kHeld; ++v) {
#pragma GCC unroll 8
      for (int s = 0; s < kSums; ++s) store(&lanes.lane[s][first + v * kWidth], sums[v][s]);
    }
  }
}

// Adds `count` < 32 terms; the first goes to lane 0.
template <class T, class Terms>
inline void add_rest(const Terms& terms, const T* const* in, Index i, Index count, Lanes<Terms::kSums>& lanes) {
  constexpr int kSums = Terms::kSums;
  for (Index j = 0; j < count; ++j) {
    double sums[kSums];
    for (int s = 0; s < kSums; ++s) sums[s] = lanes.lane[s][j];
    terms.template operator()<T>(in, i + j, 0, sums);
    for (int s = 0; s < kSums; ++s) lanes.lane[s][j] = sums[s];
  }
}

// The block sums of `count` <= 1024 terms that lie one after the other: out[0], out[stride], ...
template <class T, class Terms>
inline void run_block(const Terms& terms, const T* const* in, Index i, Index count, double* out, Index stride) {
  Lanes<Terms::kSums> lanes;
  Index groups = count / kLanes, rest = count % kLanes;
  add_groups(terms, in, i, groups, lanes);
  add_rest(terms, in, i + groups * kLanes, rest, lanes);
  lanes.halve(out, stride);
}

// Adds kGroups rows to one row of lanes: rows group_stride apart, each of `width` elements from i and column j on.
template <int kGroups, class T, class Terms>
inline void add_rows(const Terms& terms, const T* const* in, Index i, Index group_stride, Index width, double* lanes,
                     Index sum_stride) {
  constexpr int kSums = Terms::kSums;
  Index j = 0;
  for (; j + kWidth <= width; j += kWidth) {
    Doubles sums[kSums];
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) sums[s] = load<Doubles>(lanes + s * sum_stride + j);
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
      terms.template operator()<typename Vectors<T>::Terms>(in, i + g * group_stride + j, j, sums);
    }
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) store(lanes + s * sum_stride + j, sums[s]);
  }
  for (; j < width; ++j) {
    double sums[kSums];
    for (int s = 0; s < kSums; ++s) sums[s] = lanes[s * sum_stride + j];
    for (int g = 0; g < kGroups; ++g) terms.template operator()<T>(in, i + g * group_stride + j, j, sums);
    for (int s = 0; s < kSums; ++s) lanes[s * sum_stride + j] = sums[s];
  }
}

// The block sums of `width` <= kSlab columns over `rows` <= 1024 rows, `stride` elements apart, from element i on:
// column j's sum s goes to out[s * sum_stride + j].
//
// Lanes are kept for every column. 32 rows without gaps are one long row with a lane for each of its elements, so that
// any number of columns fills whole vectors; there, j runs to 32*width, and what differs by column must be repeated 32
// times. Eight such groups at a time: eight streams to prefetch, and the lanes are loaded and stored once for them.
template <class T, class Terms>
inline void column_block(const Terms& terms, const T* const* in, Index i, Index rows, Index width, Index stride,
                         double* out, Index out_stride) {
  constexpr int kSums = Terms::kSums;
  constexpr int kGroups = 8;
  alignas(kVectorBytes) double lanes[kSums * kLanes * kSlab];
  const Index sum_stride = kLanes * width;
  const bool gapless = width == stride;
  for (Index j = 0; j < kSums * sum_stride; ++j) lanes[j] = 0.0;

  for (Index row = 0; row < rows;) {
    Index left = rows - row;
    Index long_rows = gapless ? 1 : left < kLanes ? left : kLanes;
    Index long_width = !gapless ? width : left < kLanes ? left * width : kLanes * width;
    bool many = left >= kGroups * kLanes;
    for (Index l = 0; l < long_rows; ++l) {
      Index from = i + (row + l) * stride;
      double* to = lanes + l * width;
      if (many) {
        add_rows<kGroups>(terms, in, from, kLanes * stride, long_width, to, sum_stride);
      } else {
        add_rows<1>(terms, in, from, kLanes * stride, long_width, to, sum_stride);
      }
    }
    row += many ? kGroups * kLanes : kLanes;
  }

  for (int s = 0; s < kSums; ++s) {
    double* lane = lanes + s * sum_stride;
    for (Index half = kLanes / 2; half > 0; half /= 2) {
      for (Index j = 0; j < half * width; ++j) lane[j] = lane[j] + lane[j + half * width];
    }
    for (Index j = 0; j < width; ++j) out[s * out_stride + j] = lane[j];
  }
}

// Pairs n rows of `width` sums, `stride` apart, in place; the total is left in the first row. n = 0 is the caller's.
inline void pair(double* sums, Index n, Index width, Index stride) {
  for (Index step = 1; step < n; step *= 2) {
    for (Index i = 0; i + step < n; i += 2 * step) {
      double* to = sums + i * stride;
      const double* from = sums + (i + step) * stride;
      for (Index j = 0; j < width; ++j) to[j] = to[j] + from[j];
    }
  }
}

// The sums of kStreams whole blocks, a few rows of lanes of each in turn: memory gives more to several streams than to
// one, half as much again. With `fetches`: asks for the next kStreams blocks meanwhile.
template <int kStreams, class T, class Terms>
inline void run_streams(const Terms& terms, const T* const* in, Index i, bool fetches, double* out) {
  constexpr Index kGroups = 2;
  Lanes<Terms::kSums> lanes[kStreams];
  for (Index end = i + kBlock; i < end; i += kGroups * kLanes) {
    for (int b = 0; b < kStreams; ++b) {
      if (fetches) fetch(in[0] + i + (b + kStreams) * kBlock, kGroups * kLanes);
      add_groups(terms, in, i + b * kBlock, kGroups, lanes[b]);
    }
  }
  for (int b = 0; b < kStreams; ++b) lanes[b].halve(out + b, 1);
}

// What the table holds: the block sums of x or x*x.
template <class T, class Terms>
void run_blocks(const void* x, Index n, Index first, Index last, double* out) {
  constexpr int kStreams = 4;
  constexpr Index kFarTerms = 1 << 20;  // fewer may lie in a cache, where asking for them costs a twentieth
  const T* in[] = {static_cast<const T*>(x)};
  Index b = first;
  for (; b + kStreams <= last && (b + kStreams) * kBlock <= n; b += kStreams) {
    const bool fetches = n >= kFarTerms && (b + 2 * kStreams) * kBlock <= n;
    run_streams<kStreams>(Terms{}, in, b * kBlock, fetches, out + (b - first));
  }
  for (; b < last; ++b) {
    Index begin = b * kBlock, left = n - begin;
    run_block(Terms{}, in, begin, left < kBlock ? left : kBlock, out + (b - first), 1);
  }
}

template <class T, class Terms>
void column_blocks(const void* x, Index rows, Index width, Index stride, double* out) {
  const T* in[] = {static_cast<const T*>(x)};
  column_block(Terms{}, in, 0, rows, width, stride, out, width);
}

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
