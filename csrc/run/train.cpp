// The training loop: draws rows, computes the gradient, steps the plan. No arithmetic of its own.
#include "run/train.h"

#include <utility>

#include "isa/dispatch.h"
#include "run/fp_mode.h"

namespace samestep {

// Rows, and so steps of online descent, between prefetching a row and reading it: six steps take some hundred
// nanoseconds, as long as memory does.
constexpr Index kPrefetchDistance = 6;

Trainer::Trainer(MseProblem problem, Batches batches)
    : problem_(std::move(problem)), batches_(std::move(batches)), gradient_(problem_.p()) {
  problem_.reserve(batches_.largest(), true);
}

void Trainer::run(Plan& plan, const double* hyper, Index steps) {
  Tensor& tensor = plan.tensors()[0];
  void* g = gradient_.data();
  tensor.g = g;
  if (batches_.largest() > 1 || problem_.p() > kSmallStep) {
    for (; steps > 0; --steps) {
      problem_.evaluate(tensor.w, batches_.next(), nullptr, g);
      plan.step(hyper);
    }
    return;
  }
  // Online descent on few weights: a step takes tens of nanoseconds, as many as run_items() would need to start.
  FpMode mode;
  const Isa& isa = active_isa();
  for (; steps > 0; --steps) {
    Batch batch = batches_.next();
    Index row_ahead = batches_.row_ahead(kPrefetchDistance);
    if (row_ahead >= 0) problem_.prefetch(row_ahead);
    problem_.row_gradient(isa.mse[problem_.type()], tensor.w, batch.rows != nullptr ? batch.rows[0] : 0, g);
    plan.step_here(hyper);
  }
}

}  // namespace samestep
