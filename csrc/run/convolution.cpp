// Cuts a convolution's products into tiles over samples, channels and positions. No arithmetic: that is in
// contract/convolution.h.
#include <algorithm>
#include <memory>
#include <vector>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"
#include "run/tiles.h"

namespace samestep {
namespace {

constexpr Index kItemElements = 16384;  // of a gradient that is laid out anew: some 10 microseconds
constexpr Index kInputChannels = 256;   // of a tile of dx, at most

// dx of one sample and group, cut into channels and rectangles. Rectangles are whole rows, or parts of one where rows
// are long: either way one tap has some kTileColumns columns of dy.
struct InputParts {
  const Convolution& v;
  Cut channels, rows, columns;

  explicit InputParts(const Convolution& v)
      : v(v), channels{v.channels, ceil_div(v.channels, kInputChannels)}, rows{v.size[0], 1}, columns{v.size[1], 1} {
    const Index width = std::max(v.size[1], v.out_size[1]);
    rows.parts = width > kTileColumns ? rows.n : ceil_div(rows.n, kTileColumns / width);
    if (width > kTileColumns) columns.parts = ceil_div(columns.n, kTileColumns);
  }

  Index count() const { return channels.parts * rows.parts * columns.parts; }

  void run(const ConvolutionKernels& kernels, Index item, void* dpatches, void* scratch) const {
    const Index part = item % count(), matrix = item / count();
    const Index k = part % channels.parts, i = part / channels.parts % rows.parts;
    const Index j = part / channels.parts / rows.parts, first = channels.begin(k);
    kernels.input(v, matrix / v.groups, matrix % v.groups, first, channels.begin(k + 1) - first,
                  {{rows.begin(i), rows.begin(i + 1)}, {columns.begin(j), columns.begin(j + 1)}}, dpatches, scratch);
  }
};

void run_input(Type type, const Convolution& v) {
  const Index pixels = v.size[0] * v.size[1], matrices = v.samples * v.groups, size_of = bytes_of(type);
  if (matrices * v.channels * pixels == 0) return;
  InputParts parts(v);
  const double terms = double(matrices) * double(terms_of(v)) * double(positions_of(v)) * double(v.outputs);
  while (matrices * parts.count() < 4 * get_num_threads() && terms > double(matrices * parts.count() * kItemTerms) &&
         2 * parts.channels.parts <= parts.channels.n)
    parts.channels.parts *= 2;
  const Index dpatches = ceil_div(v.channels, parts.channels.parts) * kTileColumns * size_of;
  const ConvolutionKernels& kernels = active_isa().convolution[type];
  run_with_scratch(
      matrices * parts.count(), dpatches + panel_bytes(kTileColumns, v.outputs, size_of),
      [&](Index item, void* scratch) { parts.run(kernels, item, scratch, static_cast<char*>(scratch) + dpatches); },
      terms > double(kOneThreadTerms));
}

// The weight (G*O, C, R*S) as (R*S, G*O, C), so that the channels of a tap are read as they lie.
template <class T>
void order_by_tap(const Convolution& v, const T* w, T* to) {
  const Index rows = v.groups * v.outputs, taps = taps_of(v), channels = v.channels;
  run_parts(rows, kItemElements / std::max<Index>(1, terms_of(v)), [&](Index begin, Index end) {
    for (Index o = begin; o < end; ++o) {
      for (Index tap = 0; tap < taps; ++tap) {
        for (Index c = 0; c < channels; ++c) to[(tap * rows + o) * channels + c] = w[(o * channels + c) * taps + tap];
      }
    }
  });
}

void run_weight(Type type, const Convolution& v) {
  if (v.groups * v.outputs * terms_of(v) == 0) return;
  const Tiles tiles(v.groups, v.outputs, terms_of(v), v.samples * positions_of(v));
  const auto tile = active_isa().convolution[type].weight;
  tiles.run(panel_bytes(tiles.most_columns(), v.samples * positions_of(v), bytes_of(type)),
            [&](Index group, Index row, Index rows, Index column, Index columns, void* scratch) {
              tile(v, group, row, rows, column, columns, scratch);
            });
}

}  // namespace

void run_convolution(Type type, const Convolution& v) {
  if (v.samples * v.groups * v.outputs * positions_of(v) == 0) return;
  const Tiles tiles(v.samples * v.groups, v.outputs, positions_of(v), terms_of(v));
  const auto tile = active_isa().convolution[type].forward;
  tiles.run(panel_bytes(tiles.most_columns(), terms_of(v), bytes_of(type)),
            [&](Index matrix, Index row, Index rows, Index column, Index columns, void* scratch) {
              tile(v, matrix / v.groups, matrix % v.groups, row, rows, column, columns, scratch);
            });
}

void run_convolution_backward(Type type, Convolution v, const void* y, void* dbias) {
  const Isa& isa = active_isa();
  const Index size_of = bytes_of(type), outputs = v.groups * v.outputs, positions = positions_of(v);
  const Index terms = v.samples * positions;
  // dy with the channels first, masked by the ReLU: a row of it are the terms of one output.
  std::unique_ptr<char[]> copy;
  if (y != nullptr || v.samples != 1) {
    copy.reset(new char[outputs * terms * size_of]);
    run_parts(outputs * v.samples, kItemElements / std::max<Index>(1, positions), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Index from = i * positions * size_of;
        const auto row = [&](const void* a) {
          return Matrix{static_cast<const char*>(a) + from, 1, positions, positions, 1};
        };
        isa.relu_gradient[type](row(v.dy), y == nullptr ? Matrix{} : row(y), 0, 1,
                                copy.get() + (i % outputs * v.samples + i / outputs) * positions * size_of);
      }
    });
    v.dy = copy.get();
  }
  std::unique_ptr<char[]> by_tap;
  if (v.dx != nullptr) {
    by_tap.reset(new char[outputs * terms_of(v) * size_of]);
    v.w_by_tap = by_tap.get();
    if (type == float32)
      order_by_tap(v, static_cast<const float*>(v.w), reinterpret_cast<float*>(by_tap.get()));
    else
      order_by_tap(v, static_cast<const double*>(v.w), reinterpret_cast<double*>(by_tap.get()));
    run_input(type, v);
  }
  if (v.dw != nullptr) run_weight(type, v);
  if (dbias == nullptr) return;
  std::vector<double> sums(outputs);
  canonical_sum(type, values, v.dy, outputs, terms, 1, sums.data());
  FpMode mode;
  isa.round_sums[type](sums.data(), outputs, dbias);
}

}  // namespace samestep
