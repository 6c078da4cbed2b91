// Lets one thread at a time step an object, also while others run Python code.
#pragma once

#include <atomic>
#include <stdexcept>
#include <string>

#include "run/threads.h"

namespace samestep {

// Elements from which a step releases the interpreter: a shorter one ends before another thread could start to use it.
constexpr Index kReleaseInterpreter = 16384;

// Held while a thread is inside an object that serves one at a time; throws if another thread holds it.
class StepGuard {
 public:
  using Flag = std::atomic<int>;  // the generation of the process whose thread is inside
  static constexpr int kNobody = -1;

  struct Inside {
    const char *what, *after_fork;
  };
  static constexpr Inside kOptimizer = {
      "step() of this optimizer",
      "its parameters and state are half stepped; restore both (load_state_dict for the state) before the next step"};

  explicit StepGuard(Flag& flag, const Inside& inside = kOptimizer) : flag_(flag) {
    int nobody = kNobody;
    if (flag_.compare_exchange_strong(nobody, fork_generation())) return;
    const std::string what = inside.what;
    if (nobody == fork_generation()) throw std::runtime_error("another thread is inside " + what);
    flag_ = kNobody;
    throw std::runtime_error("this process was forked while another thread was inside " + what + ": here " +
                             inside.after_fork);
  }
  ~StepGuard() { flag_ = kNobody; }

 private:
  Flag& flag_;
};

}  // namespace samestep
