// Cuts a list of tensors into work items and steps them. No arithmetic: that is in rules.h.
#include "plan.h"

#include <algorithm>
#include <utility>

#include "dispatch.h"
#include "fp_mode.h"
#include "threads.h"

namespace samestep {
namespace {

// Elements of a work item: at most some 10 microseconds, at least some 2, several times what it costs a thread that is
// awake to take one. Tensors share items, so that a thousand small ones are cut as one large one would be.
constexpr Index kLargestItem = 32768, kSmallestItem = 4096;
constexpr Index kItems = 4;  // of small work: who comes late takes one less

// Elements from which a step wakes a thread that sleeps: with fewer, two threads were no faster than one, on one loaded
// machine (bench/README.md).
constexpr Index kWorthWaking = 262144;

}  // namespace

Plan::Plan(int rule, std::vector<Tensor> tensors, Index* steps)
    : rule_(rule), tensors_(std::move(tensors)), steps_(steps), coefficients_of_(tensors_.size()) {
  for (const Tensor& tensor : tensors_) size_ += tensor.size;
  const Index largest = std::clamp((size_ + kItems - 1) / kItems, kSmallestItem, kLargestItem);
  Index room = 0;
  for (Index i = 0; i < static_cast<Index>(tensors_.size()); ++i) {
    for (Index begin = 0; begin < tensors_[i].size;) {
      if (room == 0) {
        items_.push_back(segments_.size());
        room = largest;
      }
      Index end = std::min(tensors_[i].size, begin + room);
      segments_.push_back({i, begin, end});
      room -= end - begin;
      begin = end;
    }
  }
  items_.push_back(segments_.size());
}

void Plan::form_coefficients(const double* hyper) {
  row_ = &active_isa().rules[rule_];
  coefficients_.clear();
  Index formed_for[kTypes], formed_at[kTypes] = {-1, -1};
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (tensor.g == nullptr) continue;
    Index t = steps_[i] + 1;
    if (formed_at[tensor.type] < 0 || formed_for[tensor.type] != t) {
      formed_for[tensor.type] = t;
      formed_at[tensor.type] = coefficients_.size();
      coefficients_.emplace_back();
      row_->update[tensor.type].coefficients(t, hyper, &coefficients_.back());
    }
    coefficients_of_[i] = formed_at[tensor.type];
  }
}

void Plan::run_item(Index item) const {
  for (Index s = items_[item]; s < items_[item + 1]; ++s) {
    const Segment& part = segments_[s];
    const Tensor& tensor = tensors_[part.tensor];
    if (tensor.g == nullptr) continue;
    row_->update[tensor.type].apply(coefficients_[coefficients_of_[part.tensor]], tensor.w, tensor.g, tensor.states,
                                    part.begin, part.end);
  }
}

void Plan::count_step() {
  for (size_t i = 0; i < tensors_.size(); ++i) steps_[i] += tensors_[i].g != nullptr;
  ++steps_[tensors_.size()];
}

void Plan::step(const double* hyper) {
  {
    FpMode mode;
    form_coefficients(hyper);
  }
  Task task = [](void* plan, Index item) { static_cast<const Plan*>(plan)->run_item(item); };
  run_items(items_.size() - 1, task, this, size_ >= kWorthWaking);
  count_step();
}

void Plan::step_here(const double* hyper) {
  form_coefficients(hyper);
  for (Index item = 0; item + 1 < static_cast<Index>(items_.size()); ++item) run_item(item);
  count_step();
}

}  // namespace samestep
