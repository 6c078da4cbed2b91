// What the extension asks for beside a plan's step: jobs, each cut into work items by the file of its noun.
// They check nothing: the caller has. Where the cuts fall depends on sizes alone.
#pragma once

#include <vector>

#include "isa/kernels.h"

namespace samestep {

// The sums over the middle axis of x, seen as (outer, n, inner), to out (outer, inner).
void canonical_sum(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out);

// The n values from x on.
struct Run {
  Type type;
  const void* x;
  Index n;
};

// The root of the sum of the squares of them all: each run's sum, paired in the order of the list; times |scale|.
double global_norm(const std::vector<Run>& runs, double scale = 1.0);

// Runs a batch norm whose arrays and sizes are set; coefficients, repeats, sums and stream are filled in here.
void run_batchnorm(Type type, Direction direction, bool relu, BatchNorm job);

// One more batch for the running statistics. batches > 0: the average over so many, else `momentum` of the new.
void update_running(Type type, const double* mean64, const double* var64, Index channels, Index values, double momentum,
                    Index batches, void* mean, void* var);

}  // namespace samestep
