// The canonical sum: one order of addition for every machine. No threads, no memory of its own beyond one block's.
//
// csum of M float64 terms t_0 .. t_{M-1}, in blocks of 1024:
//   lanes    a_l = +0.0 + t_l + t_{l+32} + t_{l+64} + ...  within the block, from left to right;  l = 0..31
//   halving  a_l = a_l + a_{l+16}, then + a_{l+8}, a_{l+4}, a_{l+2}, a_{l+1};  a_0 is the sum of the block
//   pairing  s_i = s_{2i} + s_{2i+1} over the block sums, an odd last one is carried up, until one is left
// 32 lanes fill the registers of every instruction set, and are a GPU's warp; halving and pairing are a tree, whose
// error grows with log M (Higham 1993). The NumPy twin is backends/reference/sums.py.
//
// A struct says what is summed. It has kArrays, how many arrays it reads, kSums, how many sums run side by side, and
//   template <class X, class D> void operator()(const T* const* in, Index i, Index j, D* sums) const
// which adds to sums[0..kSums-1] the terms of elements i, i+1, ... of the arrays in[]: one term (X = T, D = double) or
// kWidth of them (X = Vectors<T>::Terms, D = Doubles). j is the column, for what differs by column.
//
// The caller cuts the terms into blocks, keeps the block sums in an array and ends with pair().
#pragma once
#include "contract/fetch.h"
#include "contract/fp.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {

// The terms x.
template <class T>
struct Values {
  static constexpr int kArrays = 1, kSums = 1;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index, D* sums) const {
    sums[0] = sums[0] + widen(load<X>(in[0] + i));
  }
};

// The terms x*x.
template <class T>
struct Squares {
  static constexpr int kArrays = 1, kSums = 1;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index, D* sums) const {
    D x = widen(load<X>(in[0] + i));
    sums[0] = add_product<T>(sums[0], x, x);
  }
};

// Pairs block sums as pair() does, but one by one as they are added, in memory for log2 of their count: like
// a binary counter, whose set bits say which sums of 1, 2, 4, ... blocks wait for their partner.
class Pairing {
 public:
  void add(double sum) {
    Index i = count_++;
    for (; i & 1; i >>= 1) sum = waiting_[--top_] + sum;
    waiting_[top_++] = sum;
  }
  double total() const {
    if (top_ == 0) return 0.0;
    double sum = waiting_[top_ - 1];
    for (int i = top_ - 2; i >= 0; --i) sum = waiting_[i] + sum;
    return sum;
  }

 private:
  Index count_ = 0;
  int top_ = 0;
  double waiting_[64];
};

#ifndef __CUDACC__  // a GPU's loops are in gpu/sums.cuh

// The lanes (kSums, 32) of one block.
template <int kSums>
struct Lanes {
  alignas(kVectorBytes) double lane[kSums][kLanes] = {};

  // out[s*stride] = the block's sum of kind s.
  void halve(double* out, Index stride) {
    for (int s = 0; s < kSums; ++s) {
      for (Index half = kLanes / 2; half > 0; half /= 2) {
        for (Index j = 0; j < half; ++j) lane[s][j] = lane[s][j] + lane[s][j + half];
      }
      out[s * stride] = lane[s][0];
    }
  }
};

// Adds the terms of elements i .. i + 32*groups - 1; the first goes to lane 0. Few lanes at a time over all groups, so
// that they stay in registers: gcc 12 would keep all 32 in memory, at half the speed. fetches: also fetches the
// elements `ahead` further on.
template <bool fetches = false, class T, class Terms>
inline void add_groups(const Terms& terms, const T* const* in, Index i, Index groups, Lanes<Terms::kSums>& lanes,
                       [[maybe_unused]] Index ahead = 0) {
  constexpr int kSums = Terms::kSums;
  constexpr int kHeld = 8 / kSums < 4 ? 8 / kSums : 4;  // vectors of lanes held in registers at a time
  for (Index first = 0; first < kLanes; first += kHeld * kWidth) {
    // Load lanes first .. first + kHeld*kWidth - 1, add their terms of all groups, store them.
    Doubles sums[kHeld][kSums];
#pragma GCC unroll 8
    for (int v = 0; v < kHeld; ++v) {
#pragma GCC unroll 8
      for (int s = 0; s < kSums; ++s) sums[v][s] = load<Doubles>(&lanes.lane[s][first + v * kWidth]);
    }
    for (Index g = 0; g < groups; ++g) {
      if constexpr (fetches) {
        for (int a = 0; a < Terms::kArrays; ++a) fetch(in[a] + i + g * kLanes + first + ahead, kHeld * kWidth);
      }
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

// Adds the terms of elements i .. i + count - 1, count < 32; the first goes to lane 0.
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

// The block sums of elements i .. i + count - 1, count <= 1024: kind s to out[s*stride].
template <class T, class Terms>
inline void run_block(const Terms& terms, const T* const* in, Index i, Index count, double* out, Index stride) {
  Lanes<Terms::kSums> lanes;
  Index groups = count / kLanes, rest = count % kLanes;
  add_groups(terms, in, i, groups, lanes);
  add_rest(terms, in, i + groups * kLanes, rest, lanes);
  lanes.halve(out, stride);
}

// lanes (kSums, width) += the terms of kGroups rows, for kVectors vectors of columns at a time as long as there are so
// many; returns the first column that is left. Row g begins at element i + g*group_stride, sum s at lanes +
// s*sum_stride. All rows go to the same lane of their columns, so they are added in the order of g.
template <int kGroups, int kVectors, class T, class Terms>
inline Index add_vectors(const Terms& terms, const T* const* in, Index i, Index group_stride, Index j, Index width,
                         double* lanes, Index sum_stride) {
  constexpr int kSums = Terms::kSums;
  for (; j + kVectors * kWidth <= width; j += kVectors * kWidth) {
    Doubles sums[kVectors][kSums];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
      for (int s = 0; s < kSums; ++s) sums[v][s] = load<Doubles>(lanes + s * sum_stride + j + v * kWidth);
    }
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const Index column = j + v * kWidth;
        terms.template operator()<typename Vectors<T>::Terms>(in, i + g * group_stride + column, column, sums[v]);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
      for (int s = 0; s < kSums; ++s) store(lanes + s * sum_stride + j + v * kWidth, sums[v][s]);
    }
  }
  return j;
}

// The same for all `width` columns.
template <int kGroups, class T, class Terms>
inline void add_rows(const Terms& terms, const T* const* in, Index i, Index group_stride, Index width, double* lanes,
                     Index sum_stride) {
  constexpr int kSums = Terms::kSums, kVectors = 2 * Terms::kArrays;
  Index j = add_vectors<kGroups, kVectors>(terms, in, i, group_stride, 0, width, lanes, sum_stride);
  j = add_vectors<kGroups, 1>(terms, in, i, group_stride, j, width, lanes, sum_stride);
  for (; j < width; ++j) {
    double sums[kSums];
    for (int s = 0; s < kSums; ++s) sums[s] = lanes[s * sum_stride + j];
    for (int g = 0; g < kGroups; ++g) terms.template operator()<T>(in, i + g * group_stride + j, j, sums);
    for (int s = 0; s < kSums; ++s) lanes[s * sum_stride + j] = sums[s];
  }
}

// The block sums of every column of x (rows, width), rows <= 1024 and width <= kSumColumns; row r begins at element
// i + r*stride. Column j's sum of kind s goes to out[s*out_stride + j].
//
// lanes is (kSums, 32, width): row r adds to lane r%32 of every column. 32 short rows without gaps (stride == width)
// are one long row of 32*width elements with a lane for each, so that any number of columns fills whole vectors; there,
// j runs to 32*width, or to rows*width, and what differs by column must be repeated as often. Several groups of 32 rows
// are added at a time: eight streams in all for the processor's prefetcher, and lanes are loaded and stored once for
// all groups. Groups lie 32 rows apart, often a multiple of 4 KiB, where the first cache can hold few lines side by
// side: a whole line of each is used at once where the vectors allow it.
template <class T, class Terms>
inline void column_block(const Terms& terms, const T* const* in, Index i, Index rows, Index width, Index stride,
                         double* out, Index out_stride) {
  constexpr int kSums = Terms::kSums;
  constexpr int kGroups = 8 / Terms::kArrays;
  alignas(kVectorBytes) double lanes[kSums * kLanes * kSumColumns];
  const Index sum_stride = kLanes * width, used = rows < kLanes ? rows : kLanes;  // lanes that any row adds to
  const bool gapless = width == stride && width < kJoinedColumns;
  for (int s = 0; s < kSums; ++s) {
    for (Index j = 0; j < used * width; ++j) lanes[s * sum_stride + j] = 0.0;
  }

  // Add all rows to the lanes, 32 or 8*32 rows at a time.
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

  // Halve: row l of the lanes gets row l + half, all columns side by side. Lanes that no row adds to are +0, and to add
  // that changes no bit: no lane is -0, since each begins at +0.
  for (int s = 0; s < kSums; ++s) {
    double* lane = lanes + s * sum_stride;
    for (Index half = kLanes / 2; half > 0; half /= 2) {
      const Index upper = used - half < half ? used - half : half;
      for (Index j = 0; j < upper * width; ++j) lane[j] = lane[j] + lane[j + half * width];
    }
    for (Index j = 0; j < width; ++j) out[s * out_stride + j] = lane[j];
  }
}

// Pairs the block sums (n, width), rows `stride` apart, in place: s_i = s_i + s_{i+step} for i = 0, 2*step, ..., with
// step 1, 2, 4, ... The totals are left in row 0. With n = 0 there is no row 0: the caller handles that case.
inline void pair(double* sums, Index n, Index width, Index stride) {
  for (Index step = 1; step < n; step *= 2) {
    for (Index i = 0; i + step < n; i += 2 * step) {
      double* to = sums + i * stride;
      const double* from = sums + (i + step) * stride;
      for (Index j = 0; j < width; ++j) to[j] = to[j] + from[j];
    }
  }
}

// out (kStreams) = the sums of as many whole blocks from element i on, read in turn, 64 terms of each: memory delivers
// several streams 1.5 times as fast as one. `prefetches`: also fetches the next kStreams blocks.
template <int kStreams, class T, class Terms>
inline void run_streams(const Terms& terms, const T* const* in, Index i, bool prefetches, double* out) {
  constexpr Index kGroups = 2;
  Lanes<Terms::kSums> lanes[kStreams];
  for (Index end = i + kSumBlock; i < end; i += kGroups * kLanes) {
    for (int b = 0; b < kStreams; ++b) {
      if (prefetches) fetch(in[0] + i + (b + kStreams) * kSumBlock, kGroups * kLanes);
      add_groups(terms, in, i + b * kSumBlock, kGroups, lanes[b]);
    }
  }
  for (int b = 0; b < kStreams; ++b) lanes[b].halve(out + b, 1);
}

// ---- the functions of the table: block sums of x or x*x ----

// x (n): out[0], out[1], ... = the sums of blocks first..last-1.
template <class T, class Terms>
void run_blocks(const void* x, Index n, Index first, Index last, double* out) {
  constexpr int kStreams = 4;
  constexpr Index kPrefetchedTerms = 1 << 20;  // and more; fewer may lie in a cache, where prefetching costs 5 %
  const T* in[] = {static_cast<const T*>(x)};
  // Whole blocks kStreams at a time, then one by one, the last of them perhaps shorter.
  Index b = first;
  for (; b + kStreams <= last && (b + kStreams) * kSumBlock <= n; b += kStreams) {
    const bool prefetches = n >= kPrefetchedTerms && (b + 2 * kStreams) * kSumBlock <= n;
    run_streams<kStreams>(Terms{}, in, b * kSumBlock, prefetches, out + (b - first));
  }
  for (; b < last; ++b) {
    Index begin = b * kSumBlock, left = n - begin;
    run_block(Terms{}, in, begin, left < kSumBlock ? left : kSumBlock, out + (b - first), 1);
  }
}

// x (rows, width), rows `stride` elements apart: out (width) = the sums of one block of every column.
template <class T, class Terms>
void column_blocks(const void* x, Index rows, Index width, Index stride, double* out) {
  const T* in[] = {static_cast<const T*>(x)};
  column_block(Terms{}, in, 0, rows, width, stride, out, width);
}

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
