// The training loop: step after step of a plan along the gradient of a mean squared error, without Python in between.
#pragma once

#include <vector>

#include "contract/sampling.h"
#include "run/mse_problem.h"
#include "run/plan.h"

namespace samestep {

// The bits are those of the loop in train/loop.py: for each step the rows, their gradient, the rule.
class Trainer {
 public:
  Trainer(MseProblem problem, Batches batches);

  const MseProblem& problem() const { return problem_; }

  // The plan is of one tensor of p elements and the problem's type; its gradient is set here.
  void run(Plan& plan, const double* hyper, Index steps);

 private:
  MseProblem problem_;
  Batches batches_;
  std::vector<double> gradient_;  // room for either type
};

}  // namespace samestep
