// The plan of a step: a rule bound to a list of tensors, stepped by one call. Checks nothing: the caller has.
#pragma once

#include <limits>
#include <vector>

#include "run/pass.h"

namespace samestep {

// Up to here a step is better made where one is.
constexpr Index kSmallStep = 4096;

class Plan {
 public:
  // rule: row of the tables. steps[i]: how many steps tensor i has made, and behind the last tensor's, how many the
  // plan has made; it counts on in place.
  Plan(int rule, std::vector<Tensor> tensors, Index* steps);

  // hyper: the rule's hyper-parameters, group by group. Gradients count `scale` times. False: a gradient is not finite,
  // Options::nonfinite refuses that, and nothing was written.
  bool step(const double* hyper, double scale = 1.0);

  // The same without the pool, for loops over small steps. The caller has set the floating-point mode.
  bool step_here(const double* hyper);

  // Of all gradients of the last step, `scale` times, before they were clipped; NaN where clip_norm was not asked for.
  double norm() const { return norm_; }

  int rule() const { return rule_; }
  int n_groups() const { return n_groups_; }
  Options& options() { return pass_.options; }
  std::vector<Tensor>& tensors() { return tensors_; }

 private:
  // A run of elements of one tensor.
  struct Segment {
    Index tensor, begin, end;
  };

  // Where the coefficients of a group and type lie that were formed last, and for which step; at -1: none yet.
  struct Formed {
    Index t = 0, at = -1;
  };

  bool prepare(const double* hyper, double scale);
  bool admits_gradients(double* scale);
  void form_coefficients(const double* hyper);
  void run_item(Index item) const;
  void count_step();

  int rule_, n_groups_ = 1;
  std::vector<Tensor> tensors_;
  Index size_ = 0;  // elements of them all
  Index* steps_;

  // Work item i is segments_[items_[i]] .. segments_[items_[i + 1] - 1]. Its borders depend on sizes and page borders.
  std::vector<Segment> segments_;
  std::vector<Index> items_;

  Pass pass_;
  double norm_ = std::numeric_limits<double>::quiet_NaN();

  // Formed once a step, type and group for all tensors that have made as many steps.
  std::vector<Coefficients> coefficients_;
  std::vector<Index> coefficients_of_;
  std::vector<Formed> formed_;
};

}  // namespace samestep
