// Convolution on a GPU: the tiles of its three products, whose patches are gathered while shared memory is filled. The
// formulas are those of contract/convolution.h; backends/gpu/convolution.py launches the kernels: convolve for the
// result; order_terms, and then convolve_weight and add_spans for the weight's gradient, multiply_taps and add_taps for
// the input's.
#pragma once
#include "contract/convolution.h"
#include "contract/types.h"
#include "gpu/product.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

// Convolution's w_by_tap is not used; its relu is followed by 7 bytes of no meaning.
struct ConvolutionArguments {
  Convolution v;
  // Of the input's gradient, one launch computes samples begin..end-1 and, of each group, channels first..last-1; of
  // the weight's, spans begin..end-1 of that many terms each, blocks of the contract's; or, with begin = end = 0, all.
  Index begin, end, first, last, span;
  void* parts;                          // (end - begin, G, last - first, R*S, P), or (end - begin, G*O, K)
  Index row_slice[3], column_slice[3];  // kSlice as (c, r, s), and as (n, h', w')
};

// A number in parts, of which the last runs fastest: a row (c, r, s) of the patches, or a column (n, h', w').
struct Parts {
  Index most, row, column;
};

inline Parts parts_of(Index i, const Index* size) {
  return {i / (size[0] * size[1]), i / size[1] % size[0], i % size[1]};
}

// i += by
inline void advance(Parts& i, const Index* by, const Index* size) {
  i.most += by[0], i.row += by[1], i.column += by[2];
  if (i.column >= size[1]) i.column -= size[1], ++i.row;
  if (i.row >= size[0]) i.row -= size[0], ++i.most;
}
inline void increment(Parts& i, const Index* size) {
  if (++i.column < size[1]) return;
  i.column = 0;
  if (++i.row < size[0]) return;
  i.row = 0, ++i.most;
}

// The patches of one group of channels, all samples side by side.
template <class T>
class Patches {
 public:
  Patches(const Convolution& v, Index group)
      : v_(v), x_(static_cast<const T*>(v.x) + group * v.channels * v.size[0] * v.size[1]) {}

  T at(const Parts& k, const Parts& p) const {
    const Index row = input_of(v_, 0, p.row, k.row), column = input_of(v_, 1, p.column, k.column);
    if (row < 0 || row >= v_.size[0] || column < 0 || column >= v_.size[1]) return T(0);
    return x_[((p.most * v_.groups * v_.channels + k.most) * v_.size[0] + row) * v_.size[1] + column];
  }

 private:
  const Convolution& v_;
  const T* const x_;
};

// B of the forward product: value i of term k is row k of column first + i of a sample's patches.
template <class T, Index side>
class PatchColumns {
 public:
  PatchColumns(const ConvolutionArguments& a, Index sample, Index group, Index first)
      : a_(a),
        patches_(a.v, group),
        count_(smaller(side, positions_of(a.v) - first)),
        column_(parts_of(first + share_.place(0, false).i, a.v.out_size)) {
    column_.most = sample;
#pragma unroll
    for (int q = 0; q < kPacks; ++q) rows_[q] = parts_of(share_.place(q, false).p, a.v.kernel);
  }

  // As Operand's, of one slice after the other.
  void load(Index, Index depth) {
    Parts column = column_;
#pragma unroll
    for (int e = 0; e < n; ++e) {
#pragma unroll
      for (int q = 0; q < kPacks; ++q) {
        const auto at = share_.place(q, false);
        share_.packs[q].at[e] = at.i + e < count_ && at.p < depth ? patches_.at(rows_[q], column) : T(0);
      }
      increment(column, a_.v.out_size);
    }
#pragma unroll
    for (int q = 0; q < kPacks; ++q) advance(rows_[q], a_.row_slice, a_.v.kernel);
  }

  void store(Slice<T, side>& to) const { share_.store(to, false); }

 private:
  static constexpr int n = Full<T>::kSize, kPacks = Share<T, side>::kPacks;
  static_assert(kMultipliers * n % side == 0, "all packs of a thread have the same columns");

  const ConvolutionArguments& a_;
  const Patches<T> patches_;
  const Index count_;
  Parts column_, rows_[kPacks];
  Share<T, side> share_;
};

// B of the weight's product: value i of term p is column begin + p of row first + i of all patches.
template <class T, Index side>
class PatchRows {
 public:
  PatchRows(const ConvolutionArguments& a, Index group, Index first, Index begin)
      : a_(a),
        patches_(a.v, group),
        count_(smaller(side, terms_of(a.v) - first)),
        row_(parts_of(first + share_.place(0, true).i, a.v.kernel)) {
#pragma unroll
    for (int q = 0; q < kPacks; ++q) columns_[q] = parts_of(begin + share_.place(q, true).p, a.v.out_size);
  }

  void load(Index, Index depth) {
#pragma unroll
    for (int q = 0; q < kPacks; ++q) {
      const auto at = share_.place(q, true);
      Parts column = columns_[q];
#pragma unroll
      for (int e = 0; e < n; ++e) {
        share_.packs[q].at[e] = at.i < count_ && at.p + e < depth ? patches_.at(row_, column) : T(0);
        increment(column, a_.v.out_size);
      }
      advance(columns_[q], a_.column_slice, a_.v.out_size);
    }
  }

  void store(Slice<T, side>& to) const { share_.store(to, true); }

 private:
  static constexpr int n = Full<T>::kSize, kPacks = Share<T, side>::kPacks;
  static_assert(kMultipliers / 2 % side == 0, "all packs of a thread have the same row");

  const ConvolutionArguments& a_;
  const Patches<T> patches_;
  const Index count_;
  const Parts row_;
  Parts columns_[kPacks];
  Share<T, side> share_;
};

// This block's tile, of a matrix (m, n) among several of that size.
struct Tile {
  Index matrix, row, column;
};
template <Index side>
inline Tile tile_of(Index m, Index n) {
  const Index across = ceil_div(n, side), tiles = ceil_div(m, side) * across, tile = blockIdx.x % tiles;
  return {blockIdx.x / tiles, tile / across * side, tile % across * side};
}

// A block of threads computes one tile of a group's y[n].
template <class T, Index side>
void convolve(const ConvolutionArguments& a) {
  const Convolution& v = a.v;
  const Index positions = positions_of(v), terms = terms_of(v);
  const Tile tile = tile_of<side>(v.outputs, positions);
  const Index group = tile.matrix % v.groups, first = group * v.outputs;
  Operand<T, side> w(static_cast<const T*>(v.w) + first * terms, terms, 1, tile.row, v.outputs);
  PatchColumns<T, side> patches(a, tile.matrix / v.groups, group, tile.column);
  T* y = static_cast<T*>(v.y) + tile.matrix * v.outputs * positions;
  const T* bias = v.bias == nullptr ? nullptr : static_cast<const T*>(v.bias) + first;
  const Target<T> to{v.outputs, positions, terms, y, positions, nullptr, bias, v.relu};
  multiply_tile<T, side>(w, patches, tile.row, tile.column, to);
}

// A tile of a group's dw, or of what one span of terms gives it.
template <class T, Index side>
void convolve_weight(const ConvolutionArguments& a) {
  const Convolution& v = a.v;
  const Index terms = v.samples * positions_of(v), columns = terms_of(v);
  const Tile tile = tile_of<side>(v.outputs, columns);
  const Index group = tile.matrix % v.groups, begin = (a.begin + tile.matrix / v.groups) * a.span;
  const T* from = static_cast<const T*>(v.dy) + group * v.outputs * terms + begin;
  Operand<T, side> dy(from, terms, 1, tile.row, v.outputs);
  PatchRows<T, side> patches(a, group, tile.column, begin);
  T* dw = static_cast<T*>(a.parts) + tile.matrix * v.outputs * columns;
  const Target<T> to{v.outputs, columns, smaller(a.span, terms - begin), dw, columns, nullptr, nullptr, false};
  multiply_tile<T, side>(dy, patches, tile.row, tile.column, to);
}

// A thread adds what the spans give one element of dw.
template <class T>
void add_spans(const ConvolutionArguments& a) {
  const Index size = a.v.groups * a.v.outputs * terms_of(a.v), e = thread_number();
  if (e >= size) return;
  const T* from = static_cast<const T*>(a.parts) + e;
  T* dw = static_cast<T*>(a.v.dw) + e;
  T c = a.begin == 0 ? *from : *dw + *from;
  for (Index i = 1; i < a.end - a.begin; ++i) c = c + from[i * size];
  *dw = c;
}

// A tile of dpatches[n] of a group.
template <class T, Index side>
void multiply_taps(const ConvolutionArguments& a) {
  const Convolution& v = a.v;
  const Index positions = positions_of(v), terms = v.samples * positions, rows = (a.last - a.first) * taps_of(v);
  const Tile tile = tile_of<side>(rows, positions);
  const Index sample = a.begin + tile.matrix / v.groups, first = tile.matrix % v.groups * v.outputs;
  const T* from = static_cast<const T*>(v.w) + first * terms_of(v) + a.first * taps_of(v);
  Operand<T, side> w(from, 1, terms_of(v), tile.row, rows);
  Operand<T, side> dy(static_cast<const T*>(v.dy) + first * terms + sample * positions, 1, terms, tile.column,
                      positions);
  T* dpatches = static_cast<T*>(a.parts) + tile.matrix * rows * positions;
  const Target<T> to{rows, positions, v.outputs, dpatches, positions, nullptr, nullptr, false};
  multiply_tile<T, side>(w, dy, tile.row, tile.column, to);
}

// A thread adds what the taps give one element of dx.
template <class T>
void add_taps(const ConvolutionArguments& a) {
  const Convolution& v = a.v;
  const Index channels = a.last - a.first, plane = v.size[0] * v.size[1], e = thread_number();
  if (e >= (a.end - a.begin) * v.groups * channels * plane) return;
  const Index h = e / v.size[1] % v.size[0], w = e % v.size[1], matrix = e / plane / channels;
  const Index channel = a.first + e / plane % channels;
  const T* dpatches = static_cast<const T*>(a.parts) + e / plane * taps_of(v) * positions_of(v);
  T dx = T(0);
  for (Index r = 0; r < v.kernel[0]; ++r) {
    const Index row = output_of(v, 0, h, r);
    for (Index s = 0; s < v.kernel[1] && row >= 0; ++s) {
      const Index column = output_of(v, 1, w, s), tap = r * v.kernel[1] + s;
      if (column >= 0) dx = dx + dpatches[tap * positions_of(v) + row * v.out_size[1] + column];
    }
  }
  static_cast<T*>(v.dx)[((a.begin * v.groups + matrix) * v.channels + channel) * plane + e % plane] = dx;
}

// out (outputs, samples, positions) = dy (samples, outputs, positions), +0 wherever y <= 0, unless y is nullptr: a
// thread computes one element.
struct TermArguments {
  const void *dy, *y;
  Index samples, outputs, positions;
  void* out;
};

template <class T>
void order_terms(const TermArguments& a) {
  const Index e = thread_number();
  if (e >= a.samples * a.outputs * a.positions) return;
  const Index p = e % a.positions, n = e / a.positions % a.samples, o = e / a.positions / a.samples;
  const Index from = (n * a.outputs + o) * a.positions + p;
  const T dy = static_cast<const T*>(a.dy)[from];
  const T* y = static_cast<const T*>(a.y);
  static_cast<T*>(a.out)[e] = y == nullptr ? dy : relu_gradient_of(dy, y[from]);
}

}  // namespace
}  // namespace samestep
