// What a step asks of its gradients before it begins, on a GPU: their norm, and whether all are finite. The formulas
// are those of options.h and sums.h; backends/gpu/gradients.py launches square_gradients, pair_gradients and
// finish_norm, or check_gradients alone.
#pragma once
#include "contract/options.h"
#include "contract/storage.h"
#include "contract/sums.h"
#include "contract/types.h"
#include "gpu/sums.cuh"
#include "gpu/tensors.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

constexpr Index kRun = 32768;  // elements that a block of threads reads: whole blocks of terms, a power of 2 of them

struct GradientArguments {
  const Row* rows;
  const Given* given;
  const Item* runs;  // of the tensors of one type
  double* sums;      // of all runs, those of each tensor side by side
  Word64* bad;       // takes the stamp where an element is infinite or NaN
  Word64 stamp;      // larger than that of any step before
};

// Reads one gradient's elements as the type of the arithmetic.
template <class T>
struct AsIs {
  using Type = T;
  const T* x;
  explicit AsIs(const void* g) : x(static_cast<const T*>(g)) {}
  T operator()(Index i) const { return x[i]; }
};
template <class S>
struct Widened {
  using Type = float;
  const Half* x;
  explicit Widened(const void* g) : x(static_cast<const Half*>(g)) {}
  float operator()(Index i) const { return S::widen(x[i]); }
};

// The sum of the squares of a run, of whose blocks a warp each sums one, and whether all elements are finite.
template <class Values>
void square_gradients(const GradientArguments& a) {
  using T = typename Values::Type;
  __shared__ double squares[kRun / kSumBlock];
  const Item run = a.runs[blockIdx.x];
  const Given& given = a.given[run.tensor];
  if (given.place < 0) return;
  const Row& row = a.rows[run.tensor];
  const Values values(given.g_in_order);
  const Index end = smaller(row.size, run.begin + kRun), blocks = ceil_div(end - run.begin, kSumBlock);
  bool are_finite = true;
  const auto add = [&](Index i, double* sums) {
    const T x = values(i);
    are_finite &= is_finite(x);
    sums[0] = add_product<T>(sums[0], widen(x), widen(x));
  };
  for (Index b = threadIdx.x / kWarp; b < blocks; b += blockDim.x / kWarp) {
    const Index first = run.begin + b * kSumBlock;
    warp_block<1>(add, first, smaller(end, first + kSumBlock), squares + b, 0);
  }
  if (!are_finite) atomicMax(a.bad, a.stamp);
  __syncthreads();
  pair_by_block(squares, blocks, 1, 1);
  if (threadIdx.x == 0) a.sums[row.first_run + run.begin / kRun] = squares[0];
}

// Whether all elements of a run are finite.
template <class Values>
void check_gradients(const GradientArguments& a) {
  const Item run = a.runs[blockIdx.x];
  const Given& given = a.given[run.tensor];
  if (given.place < 0) return;
  const Values values(given.g);
  const Index end = smaller(a.rows[run.tensor].size, run.begin + kRun);
  bool are_finite = true;
#pragma unroll 4
  for (Index i = run.begin + threadIdx.x; i < end; i += blockDim.x) are_finite &= is_finite(values(i));
  if (!are_finite) atomicMax(a.bad, a.stamp);
}

struct NormArguments {
  const Row* rows;
  const Given* given;
  double* sums;     // of the runs
  double* squares;  // (gradients), of each gradient
  Index gradients;
  double scale;
  double* norm;  // (1)
};

// The sum of the squares of one tensor's gradient, by a block of threads.
void pair_gradients(const NormArguments& a) {
  const Index place = a.given[blockIdx.x].place;
  if (place < 0) return;
  const Row& row = a.rows[blockIdx.x];
  const Index runs = ceil_div(row.size, kRun);
  double* sums = a.sums + row.first_run;
  pair_by_block(sums, runs, 1, 1);
  if (threadIdx.x == 0) a.squares[place] = runs > 0 ? sums[0] : 0.0;
}

// The norm of all, by one block of threads.
void finish_norm(const NormArguments& a) {
  pair_by_block(a.squares, a.gradients, 1, 1);
  if (threadIdx.x == 0) {
    const double norm = root(a.gradients > 0 ? a.squares[0] : 0.0);
    *a.norm = (a.scale > 0.0 ? a.scale : 0.0 - a.scale) * norm;
  }
}

}  // namespace
}  // namespace samestep
