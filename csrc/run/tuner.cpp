#include "run/tuner.h"

#include <algorithm>
#include <atomic>
#include <iterator>

namespace samestep {
namespace {

// A setting replaces the default where its median is below this share of the default's: less is noise.
constexpr double kClearlyFaster = 0.98;

// A setting whose first time is above so many times the default's is not tried again.
constexpr double kHopeless = 1.5;

// Of kTrials; allocates nothing, since the step whose time came last is not counted yet.
double median_of(const std::vector<double>& seconds) {
  double sorted[Tuner::kTrials];
  std::partial_sort_copy(seconds.begin(), seconds.end(), std::begin(sorted), std::end(sorted));
  return sorted[Tuner::kTrials / 2];
}

std::atomic<int> tunes{1};  // an int: riscv64 has no exchange of a byte

}  // namespace

bool set_tuning(bool on) { return tunes.exchange(on) != 0; }

Tuner::Tuner(const std::vector<Setting>& settings) : is_trying_(settings.size() > 1 && tunes != 0) {
  for (const Setting& setting : settings) {
    trials_.push_back({setting, {}});
    trials_.back().seconds.reserve(kTrials);
  }
}

void Tuner::keep(int index) {
  current_ = index;
  is_trying_ = false;
  left_ = 0;
}

// A machine that was busy in the first steps may have been free since then.
bool Tuner::begin_step() {
  if (is_trying_ || left_ == 0) return is_trying_;
  if (--left_ > 0) return false;
  for (Trial& trial : trials_) trial.seconds.clear();
  current_ = 0;
  kept_ *= 2;
  return is_trying_ = true;
}

bool Tuner::is_hopeless(const Trial& trial) const {
  return trial.seconds.size() == 1 && trial.seconds[0] > kHopeless * trials_[0].seconds[0];
}

// The settings take turns, so that a slow phase of the machine slows all of them.
void Tuner::record(double seconds) {
  if (!is_warm_) {
    is_warm_ = true;
    return;
  }
  trials_[current_].seconds.push_back(seconds);
  do {
    if (++current_ == static_cast<int>(trials_.size())) current_ = 0;
  } while (current_ != 0 && is_hopeless(trials_[current_]));
  if (current_ == 0 && trials_[0].seconds.size() == kTrials) keep_the_fastest();
}

void Tuner::keep_the_fastest() {
  is_trying_ = false;
  left_ = kept_;
  double least = kClearlyFaster * median_of(trials_[0].seconds);
  for (int i = 1; i < static_cast<int>(trials_.size()); ++i) {
    const Trial& trial = trials_[i];
    if (static_cast<int>(trial.seconds.size()) < kTrials || median_of(trial.seconds) >= least) continue;
    least = median_of(trial.seconds);
    current_ = i;
  }
}

}  // namespace samestep
