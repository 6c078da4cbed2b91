// Canonical sums on a GPU: a warp is the 32 lanes of a block of terms. The order of additions is that of
// contract/sums.h.
#pragma once
#include "contract/sums.h"
#include "contract/types.h"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

static_assert(kWarp == kLanes, "a warp is the lanes of a block of terms");
constexpr Index kTile = 32;          // columns that a block of threads sums at a time: neighbours in memory for a warp
constexpr Index kPairedRows = 1024;  // block sums that a block of threads pairs at a time

// out[s*stride] = the block sum of kind s of terms first..last-1. Thread l of the warp is lane l: add(k, sums) adds
// term k for k = first + l, + 32, ...; then lanes are halved by shuffles, by which thread l reads the sum of thread
// l + half.
template <int kSums, class Add>
inline void warp_block(const Add& add, Index first, Index last, double* out, Index stride) {
  const int lane = threadIdx.x % kWarp;
  double sums[kSums] = {};
#pragma unroll 4
  for (Index k = first + lane; k < last; k += kWarp) add(k, sums);
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int half = kWarp / 2; half > 0; half /= 2) {  // threads past `half` compute sums that nobody reads
      sums[s] = sums[s] + __shfl_down_sync(0xffffffffu, sums[s], half);
    }
    if (lane == 0) out[s * stride] = sums[s];
  }
}

// out[s*stride + column] = the block sum of kind s of each of `width` <= kTile columns over rows first..last-1. Thread
// j of a warp is column j, and the warp adds one lane after another: add(row, column, sums) adds one term. The lanes of
// all warps, (kSums, 32, kTile), meet in shared memory, where they are halved.
template <int kSums, class Add>
inline void tile_block(const Add& add, Index first, Index last, Index width, double* out, Index stride) {
  __shared__ double lanes[kSums][kLanes * kTile];
  const Index column = threadIdx.x % kTile;
  for (Index lane = threadIdx.x / kTile; lane < kLanes; lane += blockDim.x / kTile) {
    double sums[kSums] = {};
    if (column < width) {
#pragma unroll 4
      for (Index row = first + lane; row < last; row += kLanes) add(row, column, sums);
    }
    for (int s = 0; s < kSums; ++s) lanes[s][lane * kTile + column] = sums[s];
  }
  for (Index half = kLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    for (Index j = threadIdx.x; j < half * kTile; j += blockDim.x) {
      for (int s = 0; s < kSums; ++s) lanes[s][j] = lanes[s][j] + lanes[s][j + half * kTile];
    }
  }
  __syncthreads();
  if (threadIdx.x < width) {
    for (int s = 0; s < kSums; ++s) out[s * stride + column] = lanes[s][column];
  }
}

// Pairs block sums (n, width), rows `stride` apart, in place, as pair() of contract/sums.h does; the totals are left in
// row 0. All threads of the block share the additions of each of the log2(n) steps and wait for each other in between.
inline void pair_by_block(double* sums, Index n, Index width, Index stride) {
  for (Index step = 1; step < n; step *= 2) {
    const Index pairs = ceil_div(n - step, 2 * step);
    for (Index t = threadIdx.x; t < pairs * width; t += blockDim.x) {
      const Index i = t / width * 2 * step, j = t % width;
      sums[i * stride + j] = sums[i * stride + j] + sums[(i + step) * stride + j];
    }
    __syncthreads();
  }
}

// The block sums over the middle axis of x (outer, n, inner).
struct BlockSumArguments {
  const void* x;
  Index outer, n, inner;
  double* out;  // (outer, blocks, inner)
};

// inner = 1: a warp sums one block of one row of n terms.
template <class T, class Terms>
void sum_runs(const BlockSumArguments& a) {
  const Index blocks = ceil_div(a.n, kSumBlock), unit = warp_number();
  if (unit >= a.outer * blocks) return;
  const T* in[] = {static_cast<const T*>(a.x) + unit / blocks * a.n};
  const Index first = unit % blocks * kSumBlock;
  const auto add = [&](Index k, double* sums) { Terms{}.template operator()<T>(in, k, 0, sums); };
  warp_block<1>(add, first, smaller(a.n, first + kSumBlock), a.out + unit, 0);
}

// inner > 1: a block of threads sums one block of terms of kTile columns.
template <class T, class Terms>
void sum_columns(const BlockSumArguments& a) {
  const Index blocks = ceil_div(a.n, kSumBlock), tiles = ceil_div(a.inner, kTile);
  const Index column = blockIdx.x % tiles * kTile, unit = blockIdx.x / tiles;
  const T* in[] = {static_cast<const T*>(a.x) + unit / blocks * a.n * a.inner + column};
  const Index first = unit % blocks * kSumBlock;
  const auto add = [&](Index row, Index j, double* sums) {
    Terms{}.template operator()<T>(in, row * a.inner + j, j, sums);
  };
  tile_block<1>(add, first, smaller(a.n, first + kSumBlock), smaller(kTile, a.inner - column),
                a.out + unit * a.inner + column, 0);
}

// `sets` arrays of block sums (n, width), rows `stride` and sets `set_stride` apart. Each run of kPairedRows rows, a
// power of 2, is paired by one block of threads; the next launch pairs the first rows of the runs, which hold their
// totals.
struct PairArguments {
  double* sums;
  Index sets, n, width, stride, set_stride;
};

void pair_runs(const PairArguments& a) {
  const Index tiles = ceil_div(a.width, kTile), runs = ceil_div(a.n, kPairedRows);
  const Index column = blockIdx.x % tiles * kTile, run = blockIdx.x / tiles % runs, set = blockIdx.x / tiles / runs;
  pair_by_block(a.sums + set * a.set_stride + run * kPairedRows * a.stride + column,
                smaller(kPairedRows, a.n - run * kPairedRows), smaller(kTile, a.width - column), a.stride);
}

}  // namespace
}  // namespace samestep
