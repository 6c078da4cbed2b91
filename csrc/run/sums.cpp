// Cuts canonical sums into work items: blocks of 1024 terms, then the pairing. No arithmetic: that is in sums.h.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Terms of a work item: some 10 microseconds, many times what it costs a thread to claim one.
constexpr Index kItemTerms = 65536;

// The block sums over the middle axis of x (outer, n, inner).
struct BlockSums {
  Sum sum;
  const char* x;
  Index size_of, outer, n, inner, blocks;
  double* out;  // (outer, blocks, inner)

  Index slabs() const { return ceil_div(inner, kSumColumns); }  // of kSumColumns columns
  // A unit is one block of terms of a run, or of kSumColumns columns.
  Index units() const { return outer * blocks * slabs(); }

  // The block sums of units first..last-1.
  void add_units(Index first, Index last) const {
    if (inner == 1) return add_runs(first, last);
    for (Index unit = first; unit < last; ++unit) {
      Index slab = unit % slabs(), block = unit / slabs();
      add_columns(block / blocks, block % blocks, slab * kSumColumns);
    }
  }

  // inner = 1: a unit is a block; neighbouring blocks of one row of n terms in one call.
  void add_runs(Index first, Index last) const {
    for (Index end; first < last; first = end) {
      Index o = first / blocks, run = o * blocks;
      end = std::min(last, run + blocks);
      sum.run(x + o * n * size_of, n, first - run, end - run, out + first);
    }
  }

  // inner > 1: one block of rows, kSumColumns columns of them from `column` on.
  void add_columns(Index o, Index block, Index column) const {
    Index row = block * kSumBlock;
    sum.columns(x + ((o * n + row) * inner + column) * size_of, std::min(n - row, kSumBlock),
                std::min(inner - column, kSumColumns), inner, out + (o * blocks + block) * inner + column);
  }
};

}  // namespace

void block_sums(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out) {
  const Index blocks = ceil_div(n, kSumBlock);
  if (blocks == 0 || outer == 0 || inner == 0) return;
  const Index unit = std::min(n, kSumBlock) * std::min(inner, kSumColumns);
  const BlockSums sums{
      active_isa().sum[type][terms], static_cast<const char*>(x), bytes_of(type), outer, n, inner, blocks, out};
  run_parts(sums.units(), kItemTerms / unit, [&](Index begin, Index end) { sums.add_units(begin, end); });
}

void pair_sums(double* sums, Index outer, Index blocks, Index inner, double* out) {
  if (blocks == 0 || outer == 0 || inner == 0) return std::fill(out, out + outer * inner, 0.0);
  const Isa& isa = active_isa();
  run_parts(outer, kItemTerms / (blocks * inner), [&](Index begin, Index end) {
    for (Index o = begin; o < end; ++o) {
      double* row = sums + o * blocks * inner;
      isa.pair(row, blocks, inner, inner);
      std::copy(row, row + inner, out + o * inner);
    }
  });
}

void canonical_sum(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out) {
  const Index blocks = ceil_div(n, kSumBlock);
  std::vector<double> sums(outer * blocks * inner);
  block_sums(type, terms, x, outer, n, inner, sums.data());
  pair_sums(sums.data(), outer, blocks, inner, out);
}

double norm_of(std::vector<double> sums, double scale) {
  struct Norm {
    const Isa& isa;
    std::vector<double>& sums;
    double scale, norm;
  } all{active_isa(), sums, std::abs(scale), 0.0};
  // As an item of its own: on this thread, in the contract's floating-point mode.
  run_items(
      1,
      [](void* context, Index) {
        Norm& a = *static_cast<Norm*>(context);
        if (a.sums.empty()) return;
        a.isa.pair(a.sums.data(), a.sums.size(), 1, 1);
        a.norm = a.scale * a.isa.root(a.sums[0]);
      },
      &all);
  return all.norm;
}

double global_norm(const std::vector<Run>& runs, double scale) {
  std::vector<double> sums(runs.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    canonical_sum(runs[i].type, squares, runs[i].x, 1, runs[i].n, 1, &sums[i]);
  }
  return norm_of(std::move(sums), scale);
}

double clipped_scale(double scale, double norm, double clip_norm) {
  FpMode mode;
  return active_isa().clip_scale(scale, norm, clip_norm);
}

}  // namespace samestep
