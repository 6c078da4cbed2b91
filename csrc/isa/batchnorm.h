// Batch norm's loops on a processor: over planes, over columns, over a range of channels. No formulas: those are in
// contract/batchnorm.h, and so is what (N, C, S) means. Compiled for one instruction set after another.
#pragma once
#include "contract/batchnorm.h"
#include "contract/sums.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {

// Elements from here to the next address that is a multiple of a vector's size.
template <class T>
inline Index elements_to_alignment(const T* address) {
  return (0 - reinterpret_cast<unsigned long long>(address)) % kVectorBytes / sizeof(T);
}

constexpr Index kReadAhead = 4096;  // bytes of an array that is summed: memory delivers many lines at a time
constexpr Index kWriteAhead = 256;  // bytes of a result in the caches, whose lines are read before they are written

// out[k] = formula(in, k) for k = i..i+count-1, whose columns are j..j+count-1. in[0] = x, in[1] = dy and out are all
// of (N, C, S) or (N, S, C). b.stream: stores past the caches, which need aligned addresses; that changes no bit.
template <class T, class Formula>
inline void apply_run(const Formula& formula, const BatchNorm& b, const T* const* in, T* out, Index i, Index j,
                      Index count) {
  using V = typename Vectors<T>::Full;
  constexpr Index kStep = kVectorBytes / sizeof(T);
  const Index end = i + count;
  const bool fetches = b.fetch;  // read once: a store might change b, for the compiler
  if (b.stream) {
    // Up to the first aligned address one by one, then whole vectors.
    for (Index head = elements_to_alignment(out + i); i < end && head > 0; ++i, ++j, --head) {
      out[i] = formula.template operator()<T>(in, i, j);
    }
    for (; i + kStep <= end; i += kStep, j += kStep) {
      store_past_caches(out + i, formula.template operator()<V>(in, i, j));
    }
  } else {
    for (; i + kStep <= end; i += kStep, j += kStep) {
      if (fetches) __builtin_prefetch(out + i + kWriteAhead / Index(sizeof(T)), 1);
      store(out + i, formula.template operator()<V>(in, i, j));
    }
  }
  // The tail: the same formula, for T instead of V.
  for (; i < end; ++i, ++j) out[i] = formula.template operator()<T>(in, i, j);
}

constexpr int kRuns = 4;           // written side by side
constexpr Index kShortRun = 1024;  // bytes; shorter rows are joined
constexpr Index kLongRun = 2048;   // bytes; from there on AVX2 is slower side by side than one after the other

// The same for kRuns runs of `count` elements, one after the other, all of columns j..j+count-1: coefficients are
// loaded once for all runs. A run is whole vectors, and aligned where stores go past the caches.
template <class T, class Formula>
inline void apply_runs(const Formula& formula, const BatchNorm& b, const T* const* in, T* out, Index i, Index j,
                       Index count) {
  using V = typename Vectors<T>::Full;
  constexpr Index kStep = kVectorBytes / sizeof(T);
  for (const Index end = i + count; i < end; i += kStep, j += kStep) {
    V results[kRuns];  // all computed before any is stored: a store might change the coefficients, for the compiler
#pragma GCC unroll 8
    for (int r = 0; r < kRuns; ++r) results[r] = formula.template operator()<V>(in, i + r * count, j);
#pragma GCC unroll 8
    for (int r = 0; r < kRuns; ++r) {
      T* to = out + i + r * count;
      b.stream ? store_past_caches(to, results[r]) : store(to, results[r]);
    }
  }
}

// The block sums of terms first..last-1 of one channel in planes: term k is at sample k/S, position k%S, and goes to
// lane k%32. As many whole groups of 32 as fit into a plane are added where they lie; 32 terms across the end of a
// plane are gathered first, so that lanes keep their order. b.fetch: fetches the terms that are kReadAhead further on,
// or those of the next plane where planes are smaller; the processor itself stops at the end of a plane.
// out[s*stride] = the sum of kind s.
template <class T, class Terms>
inline void plane_block(const Terms& terms, const BatchNorm& b, const T* const* in, Index channel, Index first,
                        Index last, double* out, Index stride) {
  constexpr Index kAhead = kReadAhead / Index(sizeof(T));
  const Index S = b.positions, next_plane = b.channels * S;
  Lanes<Terms::kSums> lanes;
  Index sample = first / S, position = first % S;
  constexpr int kArrays = Terms::kArrays;
  T gathered[kArrays][kLanes];
  const T* from[kArrays];
  for (int a = 0; a < kArrays; ++a) from[a] = gathered[a];
  for (Index k = first; k < last;) {
    Index i = sample * next_plane + channel * S + position;
    Index groups = (S - position < last - k ? S - position : last - k) / kLanes;
    if (groups > 0) {
      // In place: groups of 32 that end within this plane. First those that have all they fetch in it as well.
      Index inside = b.fetch && position + kAhead < S ? (S - position - kAhead) / kLanes : 0;
      inside = inside < groups ? inside : groups;
      if (inside > 0) add_groups<true>(terms, in, i, inside, lanes, kAhead);
      const Index rest = groups - inside, after = i + inside * kLanes;
      if (rest > 0 && b.fetch && sample + 1 < b.samples) {
        add_groups<true>(terms, in, after, rest, lanes, next_plane - (S > kAhead ? S - kAhead : 0));
      } else if (rest > 0) {
        add_groups(terms, in, after, rest, lanes);
      }
      k += groups * kLanes;
      position += groups * kLanes;
    } else {
      // Fewer than 32 terms are left in this plane: gather the next 32, from as many planes as they lie in.
      Index count = last - k < kLanes ? last - k : kLanes;
      for (Index got = 0; got < count;) {
        Index run = S - position < count - got ? S - position : count - got;
        Index at = sample * next_plane + channel * S + position;
        for (int a = 0; a < kArrays; ++a) __builtin_memcpy(gathered[a] + got, in[a] + at, run * sizeof(T));
        got += run;
        position += run;
        if (position == S) position = 0, ++sample;
      }
      if (count == kLanes) {
        add_groups(terms, from, 0, 1, lanes);
      } else {
        add_rest(terms, from, 0, count, lanes);
      }
      k += count;
      continue;
    }
    if (position == S) position = 0, ++sample;
  }
  lanes.halve(out, stride);
}

// ---- the functions of the table, for channels begin..end-1 ----

// Copies the coefficients of channels begin..end-1 to all repeats.
template <class T>
void repeat_coefficients(const BatchNorm& b, Index begin, Index end) {
  for (int which = 0; which < kCoefficients; ++which) {
    T* row = coefficient_row<T>(b, static_cast<Coefficient>(which)) + begin;
    for (Index r = 1; r < b.repeats; ++r) __builtin_memcpy(row + r * b.channels, row, (end - begin) * sizeof(T));
  }
}

template <class Direction, class T>
void prepare(const BatchNorm& b, Index begin, Index end) {
  for (Index c = begin; c < end; ++c) Direction::prepare(b, c);
  repeat_coefficients<T>(b, begin, end);
}

// Block sums first_block..last_block-1, to b.sums: (2, blocks, C) channels last, (C, 2, blocks) in planes.
template <class Direction, class T>
void add_blocks(const BatchNorm& b, Index begin, Index end, Index first_block, Index last_block) {
  const T* in[] = {static_cast<const T*>(b.x), static_cast<const T*>(b.dy)};
  const Index M = b.samples * b.positions, blocks = b.blocks, C = b.channels;
  if (b.channels_last) {
    // x is (M, C): a block is kSumBlock rows, whose columns begin..end-1 are summed side by side.
    auto terms = Direction::template terms<ByColumn<T>>(b, begin);
    for (Index block = first_block; block < last_block; ++block) {
      Index row = b.first + block * kSumBlock, rows = M - row < kSumBlock ? M - row : kSumBlock;
      column_block(terms, in, row * C + begin, rows, end - begin, C, b.sums + block * C + begin, blocks * C);
    }
  } else {
    // x is (N, C, S): a block is kSumBlock terms of one channel, from one plane of S or several.
    for (Index c = begin; c < end; ++c) {
      auto terms = Direction::template terms<ByChannel<T>>(b, c);
      for (Index block = first_block; block < last_block; ++block) {
        Index first = b.first + block * kSumBlock, last = M - first < kSumBlock ? M : first + kSumBlock;
        plane_block(terms, b, in, c, first, last, b.sums + 2 * c * blocks + block, blocks);
      }
    }
  }
}

// Pairs S1 and S2 over the blocks, then computes what follows from them.
template <class Direction, class T>
void finish(const BatchNorm& b, Index begin, Index end) {
  const Index blocks = b.blocks, C = b.channels;
  for (int s = 0; s < 2; ++s) {
    if (b.channels_last) {
      pair(b.sums + s * blocks * C + begin, blocks, end - begin, C);
    } else {
      for (Index c = begin; c < end; ++c) pair(b.sums + (2 * c + s) * blocks, blocks, 1, 1);
    }
  }
  for (Index c = begin; c < end; ++c) Direction::finish(b, c);
  repeat_coefficients<T>(b, begin, end);
}

// Here begin..end-1 are elements of out in the order of memory; channels last, whole rows of C.
template <class Direction, class T>
void apply(const BatchNorm& b, Index begin, Index end) {
  const T* in[] = {static_cast<const T*>(b.x), static_cast<const T*>(b.dy)};
  T* out = static_cast<T*>(b.out);
  if (b.channels_last) {
    // As many rows of C as fill whole vectors, and kShortRun or more, run as one long row. Coefficients are repeated
    // for twice as many rows, so that a run may begin at the first aligned address, and end in the columns of the next
    // rows.
    constexpr Index kBytes = sizeof(T);
    Index rows = 1;
    while (2 * rows < b.repeats &&
           (rows * b.channels * kBytes < kShortRun || rows * b.channels * kBytes % kVectorBytes != 0)) {
      rows *= 2;
    }
    const Index width = rows * b.channels, left = end - begin;
    Index head = elements_to_alignment(out + begin);
    head = head < width && head < left ? head : 0;
    auto formula = Direction::template formula<ByColumn<T>>(b, 0);
    apply_run(formula, b, in, out, begin, 0, head);
    Index i = begin + head;
    const bool side_by_side =
        width * kBytes < kLongRun && width * kBytes % kVectorBytes == 0 && elements_to_alignment(out + i) == 0;
    for (; side_by_side && i + kRuns * width <= end; i += kRuns * width) {
      apply_runs(formula, b, in, out, i, head, width);
    }
    for (; i < end; i += width) {
      apply_run(formula, b, in, out, i, head, end - i < width ? end - i : width);
    }
  } else {
    // Plane after plane, with the coefficients of one channel each.
    Index plane = begin / b.positions, c = plane % b.channels, plane_end = (plane + 1) * b.positions;
    for (Index i = begin; i < end; plane_end += b.positions, c = c + 1 < b.channels ? c + 1 : 0) {
      Index run_end = plane_end < end ? plane_end : end;
      auto formula = Direction::template formula<ByChannel<T>>(b, c);
      apply_run(formula, b, in, out, i, 0, run_end - i);
      i = run_end;
    }
  }
  if (b.stream) finish_stores();
}

}  // namespace
}  // namespace samestep
