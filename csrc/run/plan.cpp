// Cuts a list of tensors into work items and steps them. No arithmetic: that is in rules.h.
#include "run/plan.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "contract/fetch.h"
#include "contract/sampling.h"
#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Elements of a work item: at most some 10 microseconds, at least some 2, several times what it costs a thread that is
// awake to take one. Tensors share items, so that a thousand small ones are cut as one large one would be.
constexpr Index kLargestItem = 32768, kSmallestItem = 4096;
constexpr Index kItems = 4;  // of small work: who comes late takes one less
constexpr Index kPage = 4096;

// Elements from which a step wakes a thread that sleeps: with fewer, two threads were no faster than one, on one loaded
// machine (bench/README.md).
constexpr Index kWorthWaking = 262144;

// Elements that go through all options while they lie in the nearest cache.
constexpr Index kChunk = 1024;

char* at(void* array, Index size_of, Index i) { return static_cast<char*>(array) + i * size_of; }
const char* at(const void* array, Index size_of, Index i) { return static_cast<const char*>(array) + i * size_of; }

// Bytes of an element of a parameter or gradient; of its arithmetic, bytes_of(type).
Index stored_bytes(const Tensor& t) { return t.storage == as_is ? bytes_of(t.type) : 2; }

// Where an item ends that has room up to element `end` of a parameter: on the page border before, if there is one.
// Processors fetch ahead up to such borders; past the end of an item, that would be what another thread is to write.
Index end_of_item(const Tensor& t, Index begin, Index end) {
  const Index bytes = stored_bytes(t);
  const Index past = static_cast<Index>((reinterpret_cast<std::uintptr_t>(t.w) + end * bytes) % kPage) / bytes;
  return end - past > begin ? end - past : end;
}

// 16 random bits for each of elements begin..begin+n-1, whoever computes them: counter-based, sixteen to a block.
// Returns the first one; room: for n + 32.
const std::uint16_t* random_bits(std::uint64_t seed, Index step, Index tensor, Index begin, Index n,
                                 std::uint16_t* room) {
  const Index first = begin / 16;
  for (Index block = first; block * 16 < begin + n; ++block) {
    std::uint64_t words[4];
    philox({std::uint64_t(block) + 1, std::uint64_t(tensor), std::uint64_t(step), 0}, seed, words);
    for (Index i = 0; i < 16; ++i) room[(block - first) * 16 + i] = std::uint16_t(words[i / 4] >> (i % 4 * 16));
  }
  return room + (begin - first * 16);
}

}  // namespace

Plan::Plan(int rule, std::vector<Tensor> tensors, Index* steps)
    : rule_(rule), tensors_(std::move(tensors)), steps_(steps), coefficients_of_(tensors_.size()) {
  for (const Tensor& tensor : tensors_) size_ += tensor.size;
  const Index largest = std::clamp(size_ / kItems + kPage / 4, kSmallestItem, kLargestItem);
  Index room = 0;
  for (Index i = 0; i < static_cast<Index>(tensors_.size()); ++i) {
    const Tensor& t = tensors_[i];
    n_groups_ = std::max(n_groups_, t.group + 1);
    stores_ = stores_ || t.storage != as_is || t.copy != nullptr;
    for (Index begin = 0; begin < t.size;) {
      if (room == 0) {
        items_.push_back(segments_.size());
        room = largest;
      }
      const bool is_last = begin + room >= t.size;
      const Index end = is_last ? t.size : end_of_item(t, begin, begin + room);
      segments_.push_back({i, begin, end});
      room = is_last ? room - (end - begin) : 0;
      begin = end;
    }
  }
  items_.push_back(segments_.size());
  formed_.resize(n_groups_ * kTypes);
}

// Whether the step may be made; sets the scale of its gradients.
bool Plan::admits_gradients(double scale) {
  bool is_finite = false;
  scale_ = scale;
  norm_ = std::numeric_limits<double>::quiet_NaN();
  if (options_.clip_norm < kNoLimit) {
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
          if (!c.plan.all_finite(t, part.begin, part.end)) c.passed = false;
        }
      },
      &check, size_ >= kWorthWaking);
  return check.passed;
}

bool Plan::all_finite(const Tensor& t, Index begin, Index end) const {
  const Isa& isa = active_isa();
  if (t.storage == as_is) {
    return isa.options[t.type].all_finite(at(t.g, bytes_of(t.type), begin), end - begin);
  }
  bool passed = true;
  float widened[kChunk];
  for (; passed && begin < end; begin += kChunk) {
    const Index n = std::min(kChunk, end - begin);
    isa.storage[t.storage].widen(at(t.g, 2, begin), n, widened);
    passed = isa.options[t.type].all_finite(widened, n);
  }
  return passed;
}

void Plan::form_coefficients(const double* hyper) {
  isa_ = &active_isa();
  row_ = &isa_->rules[rule_];
  std::fill(formed_.begin(), formed_.end(), Formed{});
  Index n_formed = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    if (tensor.g == nullptr) continue;
    Index t = steps_[i] + 1;
    Formed& formed = formed_[tensor.group * kTypes + tensor.type];
    if (formed.at < 0 || formed.t != t) {
      const double* of_group = hyper + tensor.group * row_->n_hyper;
      formed = {t, n_formed++};
      if (n_formed > static_cast<Index>(coefficients_.size())) coefficients_.emplace_back();
      Coefficients& coefficients = coefficients_[formed.at];
      row_->update[tensor.type].coefficients(t, of_group, &coefficients);
      coefficients.decay = isa_->decoupled_decay(of_group[0], weight_decay(tensor.group));
    }
    coefficients_of_[i] = formed.at;
  }
}

void Plan::run_item(Index item) const {
  for (Index s = items_[item]; s < items_[item + 1]; ++s) {
    const Segment& part = segments_[s];
    const Tensor& tensor = tensors_[part.tensor];
    if (tensor.g == nullptr) continue;
    needs_rule_only(tensor) ? run_rule(part) : run_with_options(part);
  }
}

// Whether the rule's own loop does it all: on values as they are, or in bfloat16, widened and narrowed as it goes.
bool Plan::needs_rule_only(const Tensor& t) const {
  if (!has_options_) return true;
  const bool is_whole = t.master == nullptr && t.low == nullptr && t.copy == nullptr && t.ema == nullptr;
  const bool is_kept = t.storage == as_is || (t.storage == bfloat16 && !options_.stochastic_rounding);
  const bool is_prepared = decays_apart(t) || (weight_decay(t.group) == 0.0 && !prepares_);
  return is_whole && is_kept && is_prepared && !options_.flush_subnormals;
}

bool Plan::decays_apart(const Tensor& t) const {
  return weight_decay(t.group) != 0.0 && options_.decoupled_weight_decay;
}

Preparation Plan::preparation_of(const Tensor& t) const {
  const double coupled = decays_apart(t) ? 0.0 : weight_decay(t.group);
  return {options_.maximize ? -scale_ : scale_, options_.clip_value, coupled};
}

void Plan::run_rule(const Segment& part) const {
  const Tensor& t = tensors_[part.tensor];
  const Update& update = row_->update[t.type];
  const Apply& apply = t.storage == bfloat16 ? update.apply_bfloat16[t.stores_states] : update.apply;
  const Coefficients& coefficients = coefficients_[coefficients_of_[part.tensor]];
  if (decays_apart(t)) {
    apply.decayed(coefficients, preparation_of(t), t.w, t.g, t.states, part.begin, part.end);
  } else {
    apply.plain(coefficients, t.w, t.g, t.states, part.begin, part.end);
  }
  if (options_.zero_grads) zero(t, part.begin, part.end);
}

void Plan::zero(const Tensor& t, Index begin, Index end) const {
  std::memset(const_cast<char*>(at(t.g, stored_bytes(t), begin)), 0, (end - begin) * stored_bytes(t));
}

// Asks memory for the elements begin..end-1 of what a step visits.
void Plan::fetch(const Tensor& t, Index begin, Index end) const {
  const auto ask = [&](const void* array, Index size_of) {
    if (array != nullptr) samestep::fetch(at(array, size_of, begin), (end - begin) * size_of);
  };
  const Index stored = stored_bytes(t), worked = bytes_of(t.type);
  ask(t.g, stored);
  ask(t.w, stored);
  ask(t.low, stored);
  ask(t.master, worked);
  for (int s = 0; s < row_->n_states; ++s) ask(t.states[s], t.stores_states ? stored : worked);
  ask(t.ema, worked);
}

void Plan::run_with_options(const Segment& part) const {
  const Tensor& tensor = tensors_[part.tensor];
  const Type type = tensor.type;
  const Index stored = stored_bytes(tensor), worked = bytes_of(tensor.type), n_states = row_->n_states;
  const Coefficients& coefficients = coefficients_[coefficients_of_[part.tensor]];
  const OptionKernels& kernels = isa_->options[type];
  const StorageKernels& storage = isa_->storage[tensor.storage];
  const Apply& apply = row_->update[type].apply;
  const Preparation preparation = preparation_of(tensor);
  const bool decays = decays_apart(tensor), is_coupled = preparation.weight_decay != 0.0;
  alignas(64) double prepared[kChunk];
  alignas(64) float wide_w[kChunk], wide_g[kChunk], wide_states[kMaxStates][kChunk];
  for (Index begin = part.begin; begin < part.end; begin += kChunk) {
    const Index n = std::min(kChunk, part.end - begin);
    if (part.end - part.begin >= kFar) fetch(tensor, begin + n, std::min(begin + n + kChunk, part.end));
    void *w = at(tensor.w, stored, begin), *states[kMaxStates];
    const void* g = at(tensor.g, stored, begin);
    for (Index s = 0; s < n_states; ++s) {
      states[s] = at(tensor.states[s], tensor.stores_states ? stored : worked, begin);
      if (!tensor.stores_states) continue;
      storage.widen(states[s], n, wide_states[s]);
      states[s] = wide_states[s];
    }
    if (tensor.storage != as_is) {
      storage.widen(g, n, wide_g);
      g = wide_g;
      if (tensor.master != nullptr) {
        w = at(tensor.master, worked, begin);
      } else if (tensor.low != nullptr) {
        isa_->join(w, at(tensor.low, 2, begin), n, wide_w);
        w = wide_w;
      } else {
        storage.widen(w, n, wide_w);
        w = wide_w;
      }
    }
    if (decays) {
      apply.decayed(coefficients, preparation, w, g, states, 0, n);
    } else {
      if (is_coupled || prepares_) {
        (is_coupled ? kernels.prepare_decayed : kernels.prepare)(preparation, w, g, n, prepared);
        g = prepared;
      }
      apply.plain(coefficients, w, g, states, 0, n);
    }
    for (Index s = 0; s < n_states; ++s) {
      if (options_.flush_subnormals) kernels.flush_subnormals(n, states[s]);
      if (tensor.stores_states) storage.narrow(wide_states[s], n, at(tensor.states[s], stored, begin));
    }
    if (tensor.ema != nullptr) kernels.average(options_.ema, w, n, at(tensor.ema, worked, begin));
    if (stores_) store_parameter(tensor, part.tensor, begin, n, static_cast<const float*>(w));
    if (options_.zero_grads) zero(tensor, begin, begin + n);
  }
}

// Puts the updated parameter, in float32, where it is kept in another form as well.
void Plan::store_parameter(const Tensor& tensor, Index i, Index begin, Index n, const float* w) const {
  if (tensor.copy != nullptr) isa_->storage[tensor.copy_storage].narrow(w, n, at(tensor.copy, 2, begin));
  if (tensor.storage == as_is) return;
  void* to = at(tensor.w, 2, begin);
  if (tensor.low != nullptr) {
    isa_->split(w, n, to, at(tensor.low, 2, begin));
  } else if (options_.stochastic_rounding && tensor.storage == bfloat16 && tensor.master == nullptr) {
    std::uint16_t room[kChunk + 32];
    isa_->narrow_at_random(w, random_bits(*options_.stochastic_rounding, steps_[i] + 1, i, begin, n, room), n, to);
  } else {
    isa_->storage[tensor.storage].narrow(w, n, to);
  }
}

void Plan::count_step() {
  for (size_t i = 0; i < tensors_.size(); ++i) steps_[i] += tensors_[i].g != nullptr;
  ++steps_[tensors_.size()];
}

// Everything before the first byte is written. The caller has set the floating-point mode.
bool Plan::prepare(const double* hyper, double scale) {
  if (!admits_gradients(scale)) return false;
  prepares_ = scale_ != 1.0 || options_.maximize || options_.clip_value < kNoLimit;
  has_options_ = stores_ || prepares_ || options_.zero_grads || options_.flush_subnormals || options_.ema != 0.0;
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
  run_items(items_.size() - 1, task, this, size_ >= kWorthWaking);
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
