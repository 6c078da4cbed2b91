// The plan of a step: a rule bound to a list of tensors, stepped by one call. Checks nothing: the caller has.
#pragma once

#include <limits>
#include <vector>

#include "run/pass.h"
#include "run/step_check.h"
#include "run/tuner.h"

namespace samestep {

// Elements up to which a step on the calling thread alone is fastest.
constexpr Index kSmallStep = 4096;

// A step was made; or a gradient is not finite, Options::nonfinite refuses that, and nothing was written; or a check
// found a difference, and the step was written but does not count.
enum class Outcome { stepped, nonfinite, mismatched };

class Plan {
 public:
  // rule: row of the tables. steps (tensors + 1): how many steps each tensor has made, then how many the plan has. A
  // step increments them in place.
  Plan(int rule, std::vector<Tensor> tensors, Index* steps);

  // hyper: the rule's hyper-parameters, group by group. Gradients are multiplied by `scale`. Sums of a tensor without a
  // gradient are 0. So many blocks are computed twice and compared.
  Outcome step(const double* hyper, double scale = 1.0, BlockSums sums = {}, Index checked_blocks = 0);

  // Where the last step that was mismatched differs from what another thread computed.
  const Mismatch& mismatch() const { return mismatch_; }

  // The same without the pool, for loops over small steps. The caller has set the floating-point mode.
  bool step_here(const double* hyper);

  // The norm of all gradients of the last step times `scale`, before clipping; NaN without clip_norm.
  double norm() const { return norm_; }

  // What the first steps tried, and what is kept.
  const Tuner& tuner() const { return tuner_; }

  // Has all further steps run with one of the settings, an index into the tuner's trials(), so that it can be measured.
  void keep(int setting) { tuner_.keep(setting); }

  int rule() const { return rule_; }
  int n_groups() const { return n_groups_; }
  Options& options() { return pass_.options; }
  std::vector<Tensor>& tensors() { return tensors_; }

 private:
  // A run of elements of one tensor.
  struct Segment {
    Index tensor, begin, end;
  };

  // Index into coefficients_ of the set last formed for a group and type, and its step number; at -1: none yet.
  struct Formed {
    Index t = 0, at = -1;
  };

  std::vector<Setting> settings() const;
  void start_tuning();
  void cut(Index largest_item);
  Index end_of_item(const Tensor& tensor, Index begin, Index end) const;
  void run_all_items();
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
  Index largest_item_ = 0;    // for which they are cut
  bool cuts_blocks_ = false;  // into whole blocks, once a step is recorded

  Tuner tuner_;
  int tuned_threads_ = 0;  // get_num_threads() and the table for which it tries settings
  const Isa* tuned_isa_ = nullptr;

  Pass pass_;
  double norm_ = std::numeric_limits<double>::quiet_NaN();
  Mismatch mismatch_{};

  // One set for each (group, type, step number); tensors that agree in all three share it.
  std::vector<Coefficients> coefficients_;
  std::vector<Index> coefficients_of_;
  std::vector<Formed> formed_;
};

}  // namespace samestep
