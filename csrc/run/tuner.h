// Chooses how a step is cut and spread by the time that its first steps take. Bits do not depend on the choice.
#pragma once

#include <vector>

#include "contract/types.h"

namespace samestep {

struct Setting {
  Index largest_item;  // elements of a work item
  int threads;         // at most
};

class Tuner {
 public:
  static constexpr int kTrials = 5;            // of each setting
  static constexpr Index kKeptAtFirst = 1000;  // steps until all are tried again; then twice as many, and so on

  struct Trial {
    Setting setting;
    std::vector<double> seconds;
  };

  // settings: the default comes first, and is kept unless another is clearly faster. With one there is nothing to try.
  explicit Tuner(const std::vector<Setting>& settings = {{}});

  // To be called before each step. True: it is a trial, and its time is to be passed to record().
  bool begin_step();
  void record(double seconds);

  // Ends the trials: this one of trials() is kept for good.
  void keep(int index);

  // What the next step is to run with.
  const Setting& setting() const { return trials_[current_].setting; }

  const std::vector<Trial>& trials() const { return trials_; }
  int kept() const { return is_trying_ ? -1 : current_; }  // index into trials()

 private:
  bool is_hopeless(const Trial& trial) const;
  void keep_the_fastest();

  std::vector<Trial> trials_;
  int current_ = 0;
  bool is_trying_;
  bool is_warm_ = false;  // the first step also waits for pages and threads, and does not count
  Index kept_ = kKeptAtFirst, left_ = 0;
};

// Whether plans tune themselves; else they keep their default. Returns the previous setting.
bool set_tuning(bool on);

}  // namespace samestep
