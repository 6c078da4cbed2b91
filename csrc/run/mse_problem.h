// The mean squared error on the host: cuts the rows of a batch into blocks and runs them on the pool. No arithmetic of
// its own: that is in mse.h. Checks nothing: the caller has.
#pragma once

#include <algorithm>
#include <vector>

#include "contract/fetch.h"
#include "contract/sampling.h"
#include "isa/kernels.h"

namespace samestep {

// Holds no arrays, only where they are; and the memory for its sums, so that one object serves one thread at a time.
class MseProblem {
 public:
  MseProblem(Type type, const void* Phi, const void* y, Index p, Scale scale)
      : type_(type), Phi_(Phi), y_(y), p_(p), scale_(scale) {}

  // Room for batches of up to so many rows; evaluate() allocates nothing then.
  void reserve(Index rows, bool gradient);

  // Writes the residuals, one a row of the batch, and the gradient, each where it is not null; returns the loss.
  double evaluate(const void* w, Batch batch, void* r, void* g);

  // The gradient of a single row on this thread. The caller has set the floating-point mode.
  void row_gradient(const MseKernels& kernels, const void* w, Index row, void* g) const {
    kernels.row(at(Phi_, row * p_), at(y_, row), w, p_, scale_, g);
  }

  // Asks for a row that will be read soon: rows come in no order that the processor could guess. Always inlined: see
  // fetch.h.
  __attribute__((always_inline)) void prefetch(Index row) const {
    fetch(at(Phi_, row * p_), std::min(p_, kPrefetched) * bytes_of(type_));
    fetch(at(y_, row), 1);
  }

  Type type() const { return type_; }
  Index p() const { return p_; }

 private:
  static constexpr Index kPrefetched = 128;  // elements; further on the processor sees a pattern by itself

  const char* at(const void* array, Index i) const { return static_cast<const char*>(array) + i * bytes_of(type_); }

  Type type_;
  const void *Phi_, *y_;
  Index p_;
  Scale scale_;
  std::vector<double> w_, lanes_, gradient_sums_, square_sums_;
};

}  // namespace samestep
