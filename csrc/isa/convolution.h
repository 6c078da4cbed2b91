// The convolution's loops on a processor: tiles of its three products, whose patches are gathered panel by panel. No
// formulas: those are in contract/convolution.h. Compiled for one instruction set after another.
#pragma once
#include "contract/convolution.h"
#include "isa/product.h"

namespace samestep {
namespace {

// to = from (n), in whole vectors as far as they go.
template <class T>
inline void copy(const T* from, Index n, T* to) {
  using V = typename Vectors<T>::Full;
  constexpr Index lanes = kVectorLanes<T>;
  Index i = 0;
  for (; i + lanes <= n; i += lanes) store(to + i, load<V>(from + i));
  for (; i + 4 <= n; i += 4) __builtin_memcpy(to + i, from + i, 4 * sizeof(T));
  for (; i < n; ++i) to[i] = from[i];
}

template <class T>
inline void clear(Index n, T* to) {
  for (Index i = 0; i < n; ++i) to[i] = T(0);
}

// to[0], to[stride], ... = to + from (n).
template <class T>
inline void add_run(const T* __restrict from, Index n, Index stride, T* __restrict to) {
  if (stride == 1) {
    for (Index i = 0; i < n; ++i) to[i] = to[i] + from[i];
  } else {
    for (Index i = 0; i < n; ++i) to[i * stride] = to[i * stride] + from[i];
  }
}

// The patches of a group of channels, all samples side by side: row k = (c, r, s), column (n, h', w').
template <class T>
class Patches {
 public:
  Patches(const Convolution& v, Index group)
      : v_(v), x_(static_cast<const T*>(v.x) + group * v.channels * v.size[0] * v.size[1]) {}

  // Row k, to be moved on one by one.
  struct Row {
    Index c, r, s;
  };
  Row row(Index k) const { return {k / taps_of(v_), k / v_.kernel[1] % v_.kernel[0], k % v_.kernel[1]}; }
  void next(Row& k) const {
    if (++k.s < v_.kernel[1]) return;
    k.s = 0;
    if (++k.r < v_.kernel[0]) return;
    k.r = 0, ++k.c;
  }

  // to = `count` elements of row k, of a sample's row of the output, from its column w on.
  void copy_run(const Row& k, Index sample, Index h, Index w, Index count, T* to) const {
    const Index row = input_of(v_, 0, h, k.r), first = input_of(v_, 1, w, k.s), stride = v_.stride[1];
    if (row < 0 || row >= v_.size[0]) return clear(count, to);
    const T* from = x_ + ((sample * v_.groups * v_.channels + k.c) * v_.size[0] + row) * v_.size[1];
    if (stride == 1) {
      const Index begin = first < 0 ? -first : 0, end = v_.size[1] - first;
      if (begin == 0 && end >= count) return copy(from + first, count, to);
      if (begin >= count || end <= 0) return clear(count, to);
      const Index last = end < count ? end : count;
      clear(begin, to);
      copy(from + first + begin, last - begin, to + begin);
      clear(count - last, to + last);
    } else {
      for (Index i = 0, column = first; i < count; ++i, column += stride)
        to[i] = column < 0 || column >= v_.size[1] ? T(0) : from[column];
    }
  }

  // run(sample, h, w, done, count) for the pieces of columns first..first+count-1 that lie in one row of the output.
  template <class Run>
  void for_runs(Index first, Index count, const Run& run) const {
    const Index width = v_.out_size[1], rows = v_.out_size[0];
    Index w = first % width, h = first / width % rows, sample = first / width / rows;
    for (Index done = 0; done < count;) {
      const Index now = count - done < width - w ? count - done : width - w;
      run(sample, h, w, done, now);
      done += now, w = 0;
      if (++h == rows) h = 0, ++sample;
    }
  }

 private:
  const Convolution& v_;
  const T* x_;
};

// B of the forward product: the patches from column `first` on.
template <class T>
struct PatchColumns {
  static constexpr bool kIsInMemory = false;
  Patches<T> patches;
  Index first;

  void pack(Index i, Index count, Index k, Index depth, Index width, T* to) const {
    patches.for_runs(first + i, count, [&](Index sample, Index h, Index w, Index done, Index now) {
      auto row = patches.row(k);
      for (Index p = 0; p < depth; ++p, patches.next(row))
        patches.copy_run(row, sample, h, w, now, to + p * width + done);
    });
    for (Index p = 0; p < depth && count < width; ++p) clear(width - count, to + p * width + count);
  }
};

// B of the weight's product: the transposed patches from row `first` on. Their columns become rows of the panel.
template <class T>
struct PatchRows {
  static constexpr bool kIsInMemory = false;
  Patches<T> patches;
  Index first;

  void pack(Index i, Index count, Index p, Index depth, Index width, T* to) const {
    alignas(kVectorBytes) T rows[kPieceVectors * kVectorLanes<T> * kProductBlock];
    patches.for_runs(p, depth, [&](Index sample, Index h, Index w, Index done, Index now) {
      auto row = patches.row(first + i);
      for (Index j = 0; j < count; ++j, patches.next(row))
        patches.copy_run(row, sample, h, w, now, rows + j * depth + done);
    });
    samestep::pack(rows, depth, 1, count, depth, width, to);
  }
};

// ---- the functions of the table; scratch: run/convolution.cpp says how large ----

// Rows row.. and columns column.. of y[sample], of a group.
template <class T>
void convolution_tile(const Convolution& v, Index sample, Index group, Index row, Index rows, Index column,
                      Index columns, void* scratch) {
  const Index positions = positions_of(v), first = group * v.outputs + row;
  const Strided<T> w{static_cast<const T*>(v.w) + first * terms_of(v), terms_of(v), 1};
  const T* bias = v.bias == nullptr ? nullptr : static_cast<const T*>(v.bias) + first;
  T* y = static_cast<T*>(v.y) + (sample * v.groups * v.outputs + first) * positions + column;
  tile<T>(w, PatchColumns<T>{{v, group}, sample * positions + column}, terms_of(v),
          Target<T>{y, positions, nullptr, bias, v.relu}, rows, columns, scratch);
}

// Rows row.. and columns column.. of a group's dw.
template <class T>
void convolution_weight_tile(const Convolution& v, Index group, Index row, Index rows, Index column, Index columns,
                             void* scratch) {
  const Index terms = v.samples * positions_of(v), first = group * v.outputs + row;
  const Strided<T> dy{static_cast<const T*>(v.dy) + first * terms, terms, 1};
  T* dw = static_cast<T*>(v.dw) + first * terms_of(v) + column;
  tile<T>(dy, PatchRows<T>{{v, group}, column}, terms, Target<T>{dw, terms_of(v), nullptr, nullptr, false}, rows,
          columns, scratch);
}

// Channels channel.. of a group's dx[sample], in the rectangle of its rows and columns. One tap of the kernel after the
// other: its dpatches fill the scratch from dpatches on.
template <class T>
void convolution_input_tile(const Convolution& v, Index sample, Index group, Index channel, Index channels,
                            const Rectangle& part, void* dpatches, void* scratch) {
  const Index positions = positions_of(v), terms = v.samples * positions, out_width = v.out_size[1];
  const Index plane = v.size[0] * v.size[1];
  const T* dy = static_cast<const T*>(v.dy) + group * v.outputs * terms + sample * positions;
  const T* w = static_cast<const T*>(v.w_by_tap) + group * v.outputs * v.channels + channel;
  const Index tap = v.groups * v.outputs * v.channels;  // from one to the next
  T* dx = static_cast<T*>(v.dx) + ((sample * v.groups + group) * v.channels + channel) * plane;
  for (Index c = 0; c < channels; ++c) {
    for (Index h = part.rows[0]; h < part.rows[1]; ++h)
      clear(part.columns[1] - part.columns[0], dx + c * plane + h * v.size[1] + part.columns[0]);
  }
  for (Index r = 0; r < v.kernel[0]; ++r) {
    const OutputRange h = outputs_of(v, 0, part.rows[0], part.rows[1], r);
    for (Index s = 0; s < v.kernel[1] && h.begin < h.end; ++s) {
      const OutputRange columns = outputs_of(v, 1, part.columns[0], part.columns[1], s);
      if (columns.begin >= columns.end) continue;
      // From the first to the last of them as they lie in memory, with what lies between two rows.
      const Index begin = h.begin * out_width + columns.begin, end = (h.end - 1) * out_width + columns.end;
      tile<T>(Strided<T>{w + (r * v.kernel[1] + s) * tap, 1, v.channels}, Strided<T>{dy + begin, 1, terms}, v.outputs,
              Target<T>{static_cast<T*>(dpatches), end - begin, nullptr, nullptr, false}, channels, end - begin,
              scratch);
      for (Index c = 0; c < channels; ++c) {
        for (Index i = h.begin; i < h.end; ++i) {
          const T* from = static_cast<const T*>(dpatches) + c * (end - begin) + i * out_width + columns.begin - begin;
          T* to = dx + c * plane + input_of(v, 0, i, r) * v.size[1] + input_of(v, 1, columns.begin, s);
          add_run(from, columns.end - columns.begin, v.stride[1], to);
        }
      }
    }
  }
}

}  // namespace
}  // namespace samestep
