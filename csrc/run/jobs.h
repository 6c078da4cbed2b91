// Canonical sums and batch norm over the threads: each job is cut into work items by sums.cpp or batchnorm.cpp, and
// where the cuts fall depends on sizes alone. Nothing is checked here: the bindings have.
#pragma once

#include <vector>

#include "isa/kernels.h"

namespace samestep {

// out (outer, inner) = csum over the middle axis of x (outer, n, inner).
void canonical_sum(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out);

// The values x (n).
struct Run {
  Type type;
  const void* x;
  Index n;
};

// |scale|*sqrt(sum of all squares): csum(x*x) of each run, these sums paired in the order of the list.
double global_norm(const std::vector<Run>& runs, double scale = 1.0);

// Runs a batch norm. The caller sets sizes, arrays and eps; coefficients, repeats, sums, stream and fetch are set here.
void run_batchnorm(Type type, Direction direction, bool relu, BatchNorm job);

// Adds one batch to the running mean and var (channels): see contract/batchnorm.h.
void update_running(Type type, const double* mean64, const double* var64, Index channels, Index values, double momentum,
                    Index batches, void* mean, void* var);

}  // namespace samestep
