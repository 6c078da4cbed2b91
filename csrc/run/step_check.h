// Finds a step that was computed wrongly, by a processor or memory that is failing: some blocks of it are stepped
// twice, on two threads, and compared before the step counts.
#pragma once

#include <cstdint>
#include <optional>
#include <thread>
#include <vector>

#include "run/pass.h"

namespace samestep {

// Where the two differ.
struct Mismatch {
  Index tensor, kind, element;   // kind: as in kinds_of()
  std::uint64_t stepped, again;  // bits
};

class StepCheck {
 public:
  // Copies so many blocks of kSumBlock elements of tensors that have a gradient, other ones for every step.
  StepCheck(const std::vector<Tensor>& tensors, int n_states, Index blocks, Index step);

  ~StepCheck() { join(); }
  StepCheck(const StepCheck&) = delete;

  // Steps the copies on a thread that takes no part in the step itself, while that goes on. coefficients[of[i]]: those
  // of tensor i. All of them must stay until compare() returns.
  void start(const Pass& pass, const std::vector<Coefficients>& coefficients, const std::vector<Index>& of);

  // The first difference from what the step has written.
  std::optional<Mismatch> compare();

 private:
  struct Block {
    Index tensor, begin, end;
    Tensor copy;  // whose elements begin..end-1 are copies
    std::vector<std::vector<char>> memory;
  };

  void join() {
    if (thread_.joinable()) thread_.join();
  }

  const std::vector<Tensor>& tensors_;
  int n_states_;
  std::vector<Block> blocks_;
  std::thread thread_;
};

}  // namespace samestep
