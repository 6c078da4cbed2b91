// The plan of a step: a rule bound to a list of tensors, stepped by one call. Checks nothing: the caller has.
#pragma once

#include <vector>

#include "kernels.h"

namespace samestep {

struct Tensor {
  Type type;
  Index size;
  void* w;
  void* states[kMaxStates];
  const void* g;  // set before each step; nullptr: this tensor sits the step out, its counter too
};

// Up to here a step is better made where one is.
constexpr Index kSmallStep = 4096;

class Plan {
 public:
  // rule: row of the tables. steps[i]: how many steps tensor i has made, and behind the last tensor's, how many the
  // plan has made; it counts on in place.
  Plan(int rule, std::vector<Tensor> tensors, Index* steps);

  void step(const double* hyper);

  // The same without the pool, for loops over small steps. The caller has set the floating-point mode.
  void step_here(const double* hyper);

  int rule() const { return rule_; }
  std::vector<Tensor>& tensors() { return tensors_; }

 private:
  // A run of elements of one tensor.
  struct Segment {
    Index tensor, begin, end;
  };

  void run_item(Index item) const;
  void form_coefficients(const double* hyper);
  void count_step();

  int rule_;
  std::vector<Tensor> tensors_;
  Index size_ = 0;  // elements of them all
  Index* steps_;

  // Work item i is segments_[items_[i]] .. segments_[items_[i + 1] - 1]. Its borders depend on the sizes alone.
  std::vector<Segment> segments_;
  std::vector<Index> items_;

  // Formed once a step and type for all tensors that have made as many steps.
  std::vector<Coefficients> coefficients_;
  std::vector<Index> coefficients_of_;
  const Rule* row_ = nullptr;  // of the table in use during a step
};

}  // namespace samestep
