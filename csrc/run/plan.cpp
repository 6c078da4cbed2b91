// Cuts a list of tensors into work items and steps them. No arithmetic: that is in rules.h, and pass.cpp calls it.
#include "run/plan.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <utility>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

using Clock = std::chrono::steady_clock;

// Elements of a work item in cache: at most some 10 microseconds, at least some 2, several times what it costs a thread
// that is awake to claim one. Tensors share items, so that a thousand small ones are cut as one large one would be.
constexpr Index kLargestItem = 32768, kSmallestItem = 4096;
constexpr Index kItems = 4, kItemsPerThread = 2;  // of small work: a thread that comes late runs one fewer
constexpr Index kLargestFromMemory = 131072, kItemsPerThreadFromMemory = 8;  // up to 3 % faster (bench/README.md)
constexpr Index kPage = 4096;

// Elements from which a step wakes a thread that sleeps: with fewer, two threads were no faster than one, on one loaded
// machine (bench/README.md).
constexpr Index kWorthWaking = 262144;

// Elements from which the arrays exceed the caches of most processors.
constexpr Index kMemoryBound = 1048576;

}  // namespace

// The end of an item that may reach element `end` of a parameter: the last page border up to there, if there is one.
// Processors prefetch up to such borders; past the item's end they would fetch what another thread writes. Items that
// are recorded end with a block.
Index Plan::end_of_item(const Tensor& t, Index begin, Index end) const {
  if (cuts_blocks_) return std::min(t.size, begin + std::max(ceil_div(end - begin, kSumBlock), Index(1)) * kSumBlock);
  const Index bytes = stored_bytes(t);
  const Index past = static_cast<Index>((reinterpret_cast<std::uintptr_t>(t.w) + end * bytes) % kPage) / bytes;
  return end - past > begin ? end - past : end;
}

Plan::Plan(int rule, std::vector<Tensor> tensors, Index* steps)
    : rule_(rule),
      tensors_(std::move(tensors)),
      steps_(steps),
      pass_(tensors_, steps),
      coefficients_of_(tensors_.size()) {
  for (const Tensor& tensor : tensors_) {
    size_ += tensor.size;
    n_groups_ = std::max(n_groups_, tensor.group + 1);
  }
  formed_.resize(n_groups_ * kTypes);
  start_tuning();
}

// Cuts the list into work items of at most so many elements, a little fewer where that meets a page border. Where
// memory runs out the last cut stays: half of one would step half of the elements.
void Plan::cut(Index largest_item) {
  if (largest_item == largest_item_) return;
  std::vector<Segment> segments;
  std::vector<Index> items;
  Index room = 0;
  for (Index i = 0; i < static_cast<Index>(tensors_.size()); ++i) {
    const Tensor& t = tensors_[i];
    for (Index begin = 0; begin < t.size;) {
      if (room == 0) {
        items.push_back(segments.size());
        room = largest_item;
      }
      const Index end = begin + room >= t.size ? t.size : end_of_item(t, begin, begin + room);
      segments.push_back({i, begin, end});
      room = end == t.size ? std::max(room - (end - begin), Index(0)) : 0;
      begin = end;
    }
  }
  items.push_back(segments.size());
  segments_.swap(segments);
  items_.swap(items);
  largest_item_ = largest_item;
}

// The default first, then what may be faster on some processor or under some load. With half the threads a step takes
// at most twice as long, and so no trial does.
std::vector<Setting> Plan::settings() const {
  const int threads = get_num_threads();
  const Index items = std::max(kItems, kItemsPerThread * threads);
  const bool from_memory = size_ >= kMemoryBound;
  const Index item = from_memory
                         ? std::clamp(size_ / (kItemsPerThreadFromMemory * threads), kLargestItem, kLargestFromMemory)
                         : std::clamp(size_ / items + kPage / 4, kSmallestItem, kLargestItem);
  std::vector<Setting> found{{item, threads}};
  if (size_ <= kSmallStep || threads == 1) return found;
  if (!from_memory || threads > 2) found.push_back({item, threads / 2});
  if (from_memory) {
    if (item != kLargestItem) found.push_back({kLargestItem, threads});
    found.push_back({kLargestItem / 4, threads});
  }
  return found;
}

void Plan::start_tuning() {
  tuner_ = Tuner(settings());
  tuned_threads_ = get_num_threads();
  tuned_isa_ = &active_isa();
  cut(tuner_.setting().largest_item);
}

// Whether the options allow a step along these gradients; lowers their scale where they are clipped by their norm.
bool Plan::admits_gradients(double* scale) {
  const Options& options = pass_.options;
  bool is_finite = false;
  norm_ = std::numeric_limits<double>::quiet_NaN();
  if (options.clip_norm < kNoLimit) {
    std::vector<Run> gradients;
    std::vector<std::vector<float>> widened;
    for (const Tensor& t : tensors_) {
      if (t.g == nullptr) continue;
      const void* g = t.g_in_order != nullptr ? t.g_in_order : t.g;
      if (t.storage != as_is) {
        widened.emplace_back(t.size);
        active_isa().storage[t.storage].widen(g, t.size, widened.back().data());
        g = widened.back().data();
      }
      gradients.push_back({t.type, g, t.size});
    }
    norm_ = global_norm(gradients, *scale);
    *scale = clipped_scale(*scale, norm_, options.clip_norm);
    is_finite = std::isfinite(norm_);
  }
  if (options.nonfinite == Nonfinite::propagate || is_finite) return true;
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
          if (!c.plan.pass_.all_finite(t, part.begin, part.end)) c.passed = false;
        }
      },
      &check, size_ >= kWorthWaking);
  return check.passed;
}

void Plan::form_coefficients(const double* hyper) {
  const Isa& isa = active_isa();
  const Rule& row = isa.rules[rule_];
  std::fill(formed_.begin(), formed_.end(), Formed{});
  Index n_formed = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (tensor.g == nullptr) continue;
    Index t = steps_[i] + 1;
    Formed& formed = formed_[tensor.group * kTypes + tensor.type];
    if (formed.at < 0 || formed.t != t) {
      const double* of_group = hyper + tensor.group * row.n_hyper;
      formed = {t, n_formed++};
      if (n_formed > static_cast<Index>(coefficients_.size())) coefficients_.emplace_back();
      Coefficients& coefficients = coefficients_[formed.at];
      row.update[tensor.type].coefficients(t, of_group, &coefficients);
      coefficients.decay = isa.decoupled_decay(of_group[0], pass_.options.decay_of(tensor.group));
    }
    coefficients_of_[i] = formed.at;
  }
}

void Plan::run_item(Index item) const {
  for (Index s = items_[item]; s < items_[item + 1]; ++s) {
    const Segment& part = segments_[s];
    const Tensor& tensor = tensors_[part.tensor];
    if (tensor.g == nullptr) continue;
    pass_.step_elements(tensor, part.tensor, coefficients_[coefficients_of_[part.tensor]], part.begin, part.end);
  }
}

void Plan::count_step() {
  for (size_t i = 0; i < tensors_.size(); ++i) steps_[i] += tensors_[i].g != nullptr;
  ++steps_[tensors_.size()];
}

// Everything before the first byte is written. The caller has set the floating-point mode.
bool Plan::prepare(const double* hyper, double scale) {
  if (!admits_gradients(&scale)) return false;
  pass_.start_step(active_isa(), rule_, scale);
  form_coefficients(hyper);
  return true;
}

Outcome Plan::step(const double* hyper, double scale, BlockSums sums, Index checked_blocks) {
  {
    FpMode mode;
    if (!prepare(hyper, scale)) return Outcome::nonfinite;
  }
  pass_.block_sums = sums;
  if (sums.rows != nullptr) {
    std::fill_n(sums.rows, tensors_.size() * sums.kinds, 0);
    if (!cuts_blocks_) largest_item_ = 0;  // cut again
    cuts_blocks_ = true;
  }
  std::optional<StepCheck> check;
  if (checked_blocks > 0) {
    check.emplace(tensors_, active_isa().rules[rule_].n_states, checked_blocks, steps_[tensors_.size()]);
    check->start(pass_, coefficients_, coefficients_of_);
  }
  run_all_items();
  if (check) {
    if (const auto found = check->compare()) {
      mismatch_ = *found;
      return Outcome::mismatched;
    }
  }
  count_step();
  return Outcome::stepped;
}

void Plan::run_all_items() {
  if (tuned_threads_ != get_num_threads() || tuned_isa_ != &active_isa()) start_tuning();
  const bool is_trial = tuner_.begin_step();
  const Setting setting = tuner_.setting();
  cut(setting.largest_item);
  const Task task = [](void* plan, Index item) { static_cast<const Plan*>(plan)->run_item(item); };
  const auto start = is_trial ? Clock::now() : Clock::time_point{};
  run_items(items_.size() - 1, task, this, size_ >= kWorthWaking, setting.threads);
  if (is_trial) tuner_.record(std::chrono::duration<double>(Clock::now() - start).count());
}

bool Plan::step_here(const double* hyper) {
  if (!prepare(hyper, 1.0)) return false;
  pass_.block_sums = {};
  for (Index item = 0; item + 1 < static_cast<Index>(items_.size()); ++item) run_item(item);
  count_step();
  return true;
}

}  // namespace samestep
