// Cuts a list of tensors into work items and steps them. No arithmetic: that is in rules.h.
#include "plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "dispatch.h"
#include "fp_mode.h"
#include "jobs.h"
#include "threads.h"

namespace samestep {
namespace {

// Elements of a work item: some 10 microseconds, several times what it costs to wake a thread. Tensors share items, so
// that a thousand small ones are cut as one large one would be.
constexpr Index kItem = 32768;

// Elements that go through all options while they lie in the nearest cache.
constexpr Index kChunk = 1024;

constexpr Index kSizeOf[kTypes] = {4, 8};

char* at(void* array, Type type, Index i) { return static_cast<char*>(array) + i * kSizeOf[type]; }
const char* at(const void* array, Type type, Index i) { return static_cast<const char*>(array) + i * kSizeOf[type]; }

}  // namespace

Plan::Plan(int rule, std::vector<Tensor> tensors, Index* steps)
    : rule_(rule), tensors_(std::move(tensors)), steps_(steps), coefficients_of_(tensors_.size()) {
  Index room = 0;
  for (Index i = 0; i < static_cast<Index>(tensors_.size()); ++i) {
    n_groups_ = std::max(n_groups_, tensors_[i].group + 1);
    for (Index begin = 0; begin < tensors_[i].size;) {
      if (room == 0) {
        items_.push_back(segments_.size());
        room = kItem;
      }
      Index end = std::min(tensors_[i].size, begin + room);
      segments_.push_back({i, begin, end});
      room -= end - begin;
      begin = end;
    }
  }
  items_.push_back(segments_.size());
}

// Whether the step may be made; sets the scale of its gradients.
bool Plan::admits_gradients(double scale) {
  bool is_finite = false;
  scale_ = scale;
  norm_ = std::numeric_limits<double>::quiet_NaN();
  if (options_.clip_norm < Options::kNone) {
    std::vector<Run> gradients;
    for (const Tensor& t : tensors_) {
      if (t.g != nullptr) gradients.push_back({t.type, t.g_in_order != nullptr ? t.g_in_order : t.g, t.size});
    }
    norm_ = global_norm(gradients, scale);
    scale_ = active_isa().clip_scale(scale, norm_, options_.clip_norm);
    is_finite = std::isfinite(norm_);
  }
  if (options_.nonfinite == Nonfinite::propagate || is_finite) return true;
  struct Check {
    const Plan& plan;
    std::atomic<bool> passed;
  } check{*this, {true}};
  run_items(
      items_.size() - 1,
      [](void* context, Index item) {
        Check& c = *static_cast<Check*>(context);
        for (Index s = c.plan.items_[item]; s < c.plan.items_[item + 1]; ++s) {
          const Segment& part = c.plan.segments_[s];
          const Tensor& t = c.plan.tensors_[part.tensor];
          if (t.g == nullptr) continue;
          if (!active_isa().options[t.type].all_finite(at(t.g, t.type, part.begin), part.end - part.begin)) {
            c.passed = false;
          }
        }
      },
      &check);
  return check.passed;
}

void Plan::form_coefficients(const double* hyper) {
  const Isa& isa = active_isa();
  row_ = &isa.rules[rule_];
  option_kernels_ = isa.options;
  coefficients_.clear();
  formed_.assign(n_groups_ * kTypes, {});
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (tensor.g == nullptr) continue;
    Index t = steps_[i] + 1;
    Formed& formed = formed_[tensor.group * kTypes + tensor.type];
    if (formed.at < 0 || formed.t != t) {
      const double* of_group = hyper + tensor.group * row_->n_hyper;
      formed = {t, static_cast<Index>(coefficients_.size())};
      coefficients_.emplace_back();
      row_->update[tensor.type].coefficients(t, of_group, &coefficients_.back());
      coefficients_.back().decay = isa.decoupled_decay(of_group[0], weight_decay(tensor.group));
    }
    coefficients_of_[i] = formed.at;
  }
}

void Plan::run_item(Index item) const {
  for (Index s = items_[item]; s < items_[item + 1]; ++s) {
    const Segment& part = segments_[s];
    const Tensor& tensor = tensors_[part.tensor];
    if (tensor.g == nullptr) continue;
    if (has_options_) {
      run_with_options(part);
      continue;
    }
    row_->update[tensor.type].apply(coefficients_[coefficients_of_[part.tensor]], tensor.w, tensor.g, tensor.states,
                                    part.begin, part.end);
  }
}

void Plan::run_with_options(const Segment& part) const {
  const Tensor& tensor = tensors_[part.tensor];
  const Type type = tensor.type;
  const Coefficients& coefficients = coefficients_[coefficients_of_[part.tensor]];
  const OptionKernels& kernels = option_kernels_[type];
  const double decay = weight_decay(tensor.group);
  const bool coupled = decay != 0.0 && !options_.decoupled;
  const auto apply = decay != 0.0 && options_.decoupled ? row_->update[type].apply_decayed : row_->update[type].apply;
  const Preparation preparation{options_.maximize ? -scale_ : scale_, options_.clip_value, decay};
  alignas(64) double prepared[kChunk];
  for (Index begin = part.begin; begin < part.end; begin += kChunk) {
    const Index n = std::min(kChunk, part.end - begin);
    void *w = at(tensor.w, type, begin), *states[kMaxStates];
    const void* g = at(tensor.g, type, begin);
    for (int s = 0; s < row_->n_states; ++s) states[s] = at(tensor.states[s], type, begin);
    if (coupled || prepares_) {
      (coupled ? kernels.prepare_decayed : kernels.prepare)(preparation, w, g, n, prepared);
      g = prepared;
    }
    apply(coefficients, w, g, states, 0, n);
    if (options_.flush_subnormals) {
      for (int s = 0; s < row_->n_states; ++s) kernels.flush_subnormals(n, states[s]);
    }
    if (tensor.ema != nullptr) kernels.average(options_.ema, w, n, at(tensor.ema, type, begin));
    if (options_.zero_grads) std::memset(const_cast<char*>(at(tensor.g, type, begin)), 0, n * kSizeOf[type]);
  }
}

void Plan::count_step() {
  for (size_t i = 0; i < tensors_.size(); ++i) steps_[i] += tensors_[i].g != nullptr;
  ++steps_[tensors_.size()];
}

// Everything before the first byte is written. The caller has set the floating-point mode.
bool Plan::prepare(const double* hyper, double scale) {
  if (!admits_gradients(scale)) return false;
  prepares_ = scale_ != 1.0 || options_.maximize || options_.clip_value < Options::kNone;
  has_options_ = prepares_ || options_.zero_grads || options_.flush_subnormals || options_.ema != 0.0;
  for (double decay : options_.weight_decay) has_options_ = has_options_ || decay != 0.0;
  form_coefficients(hyper);
  return true;
}

bool Plan::step(const double* hyper, double scale) {
  {
    FpMode mode;
    if (!prepare(hyper, scale)) return false;
  }
  Task task = [](void* plan, Index item) { static_cast<const Plan*>(plan)->run_item(item); };
  run_items(items_.size() - 1, task, this);
  count_step();
  return true;
}

bool Plan::step_here(const double* hyper) {
  if (!prepare(hyper, 1.0)) return false;
  for (Index item = 0; item + 1 < static_cast<Index>(items_.size()); ++item) run_item(item);
  count_step();
  return true;
}

}  // namespace samestep
