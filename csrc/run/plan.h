// The plan of a step: a rule bound to a list of tensors, stepped by one call. Checks nothing: the caller has.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "isa/kernels.h"

namespace samestep {

struct Tensor {
  Type type;
  Index size;
  void* w;
  void* states[kMaxStates];
  const void* g;                     // set before each step; nullptr: this tensor sits the step out, its counter too
  int group = 0;                     // whose hyper-parameters
  void* ema = nullptr;               // the parameter's running average
  const void* g_in_order = nullptr;  // g in C order, for its norm; set where that differs

  // Where type is float32, w and g may be kept in 16 bits, and then the states as well.
  Storage storage = as_is;
  bool stores_states = false;
  void* master = nullptr;  // the parameter in float32, of which w is the rounded one
  void* low = nullptr;     // or the lower halves of float32 parameters, w being the upper ones
  void* copy = nullptr;    // takes the updated parameter in 16 bits
  Storage copy_storage = as_is;
};

// What happens where a gradient is infinite or NaN.
enum class Nonfinite { propagate, refuse };

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// What a step does beside the rule: type, name of the keyword argument in Python, and the value that asks for nothing.
#define FOR_EACH_OPTION(ROW)                                                          \
  ROW(bool, decoupled_weight_decay, false)                                            \
  ROW(bool, maximize, false)                                                          \
  ROW(bool, zero_grads, false)                                                        \
  ROW(bool, flush_subnormals, false)                                                  \
  ROW(Nonfinite, nonfinite, Nonfinite::propagate)                                     \
  ROW(double, clip_norm, kNoLimit)                                                    \
  ROW(double, clip_value, kNoLimit)                                                   \
  ROW(double, ema, 0.0) /* decay of the running average, for tensors that have one */ \
  ROW(std::optional<std::uint64_t>, stochastic_rounding, std::nullopt) /* of parameters kept in bfloat16 */

struct Options {
#define OPTION_FIELD(type, name, absent) type name = absent;
  FOR_EACH_OPTION(OPTION_FIELD)
#undef OPTION_FIELD

  std::vector<double> weight_decay;  // of each group; empty: none
};

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
  Options& options() { return options_; }
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
  bool admits_gradients(double scale);
  bool all_finite(const Tensor& tensor, Index begin, Index end) const;
  double weight_decay(int group) const { return options_.weight_decay.empty() ? 0.0 : options_.weight_decay[group]; }
  void form_coefficients(const double* hyper);
  void run_item(Index item) const;
  bool needs_rule_only(const Tensor& tensor) const;
  bool decays_apart(const Tensor& tensor) const;
  Preparation preparation_of(const Tensor& tensor) const;
  void run_rule(const Segment& part) const;
  void zero(const Tensor& tensor, Index begin, Index end) const;
  void fetch(const Tensor& tensor, Index begin, Index end) const;
  void run_with_options(const Segment& part) const;
  void store_parameter(const Tensor& tensor, Index i, Index begin, Index n, const float* w) const;
  void count_step();

  int rule_, n_groups_ = 1;
  std::vector<Tensor> tensors_;
  Index size_ = 0;  // elements of them all
  Index* steps_;

  // Work item i is segments_[items_[i]] .. segments_[items_[i + 1] - 1]. Its borders depend on sizes and page borders.
  std::vector<Segment> segments_;
  std::vector<Index> items_;

  Options options_;
  double norm_ = std::numeric_limits<double>::quiet_NaN();
  double scale_ = 1.0;        // of the gradients in this step
  bool has_options_ = false;  // any that concern what is written in this step
  bool prepares_ = false;     // gradients
  bool stores_ = false;       // anything in another form than it is computed in

  // Formed once a step, type and group for all tensors that have made as many steps.
  std::vector<Coefficients> coefficients_;
  std::vector<Index> coefficients_of_;
  std::vector<Formed> formed_;
  const Rule* row_ = nullptr;  // of the table in use during a step
  const Isa* isa_ = nullptr;
};

}  // namespace samestep
