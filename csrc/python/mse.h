// Trainer as bind_mse.cpp exports it and bind_plan.cpp runs it: the problem and the batches of the compiled loop.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "python/step_guard.h"
#include "run/train.h"

namespace samestep {

namespace py = pybind11;

// A Trainer, and a reference to the problem whose arrays it reads.
class BoundTrainer {
 public:
  static constexpr StepGuard::Inside kInside = {"a run with this trainer", "its draws are half made; make a new one"};

  BoundTrainer(py::object problem, const std::string& sampling, Index batch_size, std::uint64_t seed);

  Trainer& trainer() { return trainer_; }
  StepGuard::Flag& stepping() { return stepping_; }

 private:
  py::object held_;
  Trainer trainer_;
  StepGuard::Flag stepping_{StepGuard::kNobody};
};

}  // namespace samestep
