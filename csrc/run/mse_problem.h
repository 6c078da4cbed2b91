// The mean squared error over the threads: cuts the rows of a batch into blocks and runs them on the pool. No
// arithmetic: that is in contract/mse.h. Nothing is checked here: the bindings have.
#pragma once

#include <algorithm>
#include <vector>

#include "contract/fetch.h"
#include "contract/sampling.h"
#include "isa/kernels.h"

namespace samestep {

// Owns no arrays, only their addresses, and the scratch memory for sums: one object serves one thread at a time.
class MseProblem {
 public:
  // Phi (n, p), y (n).
  MseProblem(Type type, const void* Phi, const void* y, Index p, Scale scale)
      : type_(type), Phi_(Phi), y_(y), p_(p), scale_(scale) {}

  // Allocates scratch for batches of up to so many rows; evaluate() then allocates nothing.
  void reserve(Index rows, bool gradient);

  // w (p). Writes residuals r (batch) and gradient g (p), each where it is not null; returns the loss.
  double evaluate(const void* w, Batch batch, void* r, void* g);

  // The first half of that: block sums of r_i*r_i (blocks), and of the gradient (blocks, p) where it is not null.
  void block_sums(const void* w, Batch batch, void* r, double* squares, double* gradient);

  // The second: g (p), where it is not null, from the sums of the gradient (p) over so many rows; returns the loss.
  double finish(Index rows, double squares, const double* gradient, void* g) const;

  // g (p) = the gradient of a single row, on this thread. The caller has set the floating-point mode.
  void row_gradient(const MseKernels& kernels, const void* w, Index row, void* g) const {
    kernels.row(at(Phi_, row * p_), at(y_, row), w, p_, scale_, g);
  }

  // Prefetches a row that will be read soon: the processor cannot guess the order of drawn rows. Always inlined: see
  // fetch.h.
  __attribute__((always_inline)) void prefetch(Index row) const {
    fetch(at(Phi_, row * p_), std::min(p_, kPrefetchedElements) * bytes_of(type_));
    fetch(at(y_, row), 1);
  }

  Type type() const { return type_; }
  Index p() const { return p_; }

 private:
  static constexpr Index kPrefetchedElements = 128;  // of a row; from there on the processor's own prefetcher follows

  const char* at(const void* array, Index i) const { return static_cast<const char*>(array) + i * bytes_of(type_); }

  Type type_;
  const void *Phi_, *y_;
  Index p_;
  Scale scale_;
  std::vector<double> w_;              // (p), widened
  std::vector<double> lanes_;          // (threads, kLanes, padded_columns(p))
  std::vector<double> gradient_sums_;  // (blocks, p)
  std::vector<double> square_sums_;    // (blocks)
};

}  // namespace samestep
