// Cuts canonical sums into work items: blocks of 1024 terms, then the pairing. No arithmetic: that is in sums.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Terms of a work item: some 10 microseconds.
constexpr Index kItem = 65536;

// Sums over the middle axis of x (outer, n, inner), by way of an array of block sums (outer, blocks, inner).
struct Sums {
  const Isa& isa;
  Sum sum;
  const char* x;
  Index size_of, outer, n, inner, blocks;
  Index per_item;  // units (blocks of a run, or blocks of a slab of columns) in a work item
  double* block_sums;
  double* out;

  Index slabs() const { return (inner + kSumColumns - 1) / kSumColumns; }
  Index units() const { return outer * blocks * slabs(); }

  void add(Index first, Index last) const {
    if (inner == 1) return add_runs(first, last);
    for (Index unit = first; unit < last; ++unit) {
      Index slab = unit % slabs(), block = unit / slabs();
      add_columns(block / blocks, block % blocks, slab * kSumColumns);
    }
  }

  void add_runs(Index first, Index last) const {
    for (Index end; first < last; first = end) {
      Index o = first / blocks, run = o * blocks;
      end = std::min(last, run + blocks);
      sum.run(x + o * n * size_of, n, first - run, end - run, block_sums + first);
    }
  }

  void add_columns(Index o, Index block, Index column) const {
    Index row = block * kSumBlock;
    sum.columns(x + ((o * n + row) * inner + column) * size_of, std::min(n - row, kSumBlock),
                std::min(inner - column, kSumColumns), inner, block_sums + (o * blocks + block) * inner + column);
  }

  void pair_and_put(Index o) const {
    double* sums = block_sums + o * blocks * inner;
    isa.pair(sums, blocks, inner, inner);
    std::copy(sums, sums + inner, out + o * inner);
  }
};

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

}  // namespace

void canonical_sum(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out) {
  Index blocks = ceil_div(n, kSumBlock);
  if (blocks == 0 || outer == 0 || inner == 0) return std::fill(out, out + outer * inner, 0.0);
  const Isa& isa = active_isa();
  std::vector<double> block_sums(outer * blocks * inner);
  Index size_of = bytes_of(type);
  Index unit = std::min(n, kSumBlock) * std::min(inner, kSumColumns);
  Sums sums{isa,
            isa.sum[type][terms],
            static_cast<const char*>(x),
            size_of,
            outer,
            n,
            inner,
            blocks,
            std::max<Index>(1, kItem / unit),
            block_sums.data(),
            out};
  run_items(
      ceil_div(sums.units(), sums.per_item),
      [](void* context, Index item) {
        const Sums& s = *static_cast<const Sums*>(context);
        s.add(item * s.per_item, std::min(s.units(), (item + 1) * s.per_item));
      },
      &sums);
  sums.per_item = std::max<Index>(1, kItem / (blocks * inner));
  run_items(
      ceil_div(outer, sums.per_item),
      [](void* context, Index item) {
        const Sums& s = *static_cast<const Sums*>(context);
        Index end = std::min(s.outer, (item + 1) * s.per_item);
        for (Index o = item * s.per_item; o < end; ++o) s.pair_and_put(o);
      },
      &sums);
}

double global_norm(const std::vector<Run>& runs, double scale) {
  struct Norm {
    const Isa& isa;
    std::vector<double> sums;
    double scale, norm;
  } all{active_isa(), std::vector<double>(runs.size()), std::abs(scale), 0.0};
  for (size_t i = 0; i < runs.size(); ++i) {
    canonical_sum(runs[i].type, squares, runs[i].x, 1, runs[i].n, 1, &all.sums[i]);
  }
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

}  // namespace samestep
