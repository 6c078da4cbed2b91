// Cuts a batch into the blocks of the canonical sum, runs them on the pool and pairs their sums.
#include "run/mse_problem.h"

#include <algorithm>
#include <atomic>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Elements of Phi from which a pass is worth several threads: a smaller one ends before another thread has woken up.
constexpr Index kWorthWaking = 32768;

Index blocks_of(Index rows) { return ceil_div(rows, kSumBlock); }

// Threads that may work on a batch. Each has a seat: lanes (kLanes, padded_columns(p)) of its own.
Index seats_for(Index rows, Index p) {
  if (rows * p < kWorthWaking) return 1;
  return std::max<Index>(1, std::min<Index>(blocks_of(rows), get_num_threads()));
}

struct Evaluation {
  const MseKernels& kernels;
  MseBlock block;    // what is the same for all blocks
  Index rows;        // of the batch
  Index lanes_size;  // doubles of one seat
  std::atomic<Index> next{0};

  // Computes block after block until none is left. Which thread computes which is left open: every block has its own
  // place for its sums.
  void run_blocks(Index seat) {
    for (Index i; (i = next.fetch_add(1, std::memory_order_relaxed)) < blocks_of(rows);) {
      MseBlock b = block;
      b.begin = i * kSumBlock;
      b.count = std::min(kSumBlock, rows - b.begin);
      if (b.lanes != nullptr) {
        b.lanes += seat * lanes_size;
        b.gradient_sums += i * b.p;
      }
      b.square_sum += i;
      kernels.block(b);
    }
  }
};

}  // namespace

void MseProblem::reserve(Index rows, bool gradient) {
  auto grow = [](std::vector<double>& v, Index size) {
    if (static_cast<Index>(v.size()) < size) v.resize(size);
  };
  grow(w_, p_);
  grow(square_sums_, std::max<Index>(1, blocks_of(rows)));
  if (!gradient) return;
  grow(lanes_, seats_for(rows, p_) * kLanes * padded_columns(p_));
  grow(gradient_sums_, std::max<Index>(1, blocks_of(rows)) * p_);
}

double MseProblem::evaluate(const void* w, Batch batch, void* r, void* g) {
  reserve(batch.count, g != nullptr);
  block_sums(w, batch, r, square_sums_.data(), g != nullptr ? gradient_sums_.data() : nullptr);
  const Isa& isa = active_isa();
  const Index blocks = blocks_of(batch.count);
  FpMode mode;
  isa.pair(square_sums_.data(), blocks, 1, 1);
  if (g != nullptr) isa.pair(gradient_sums_.data(), blocks, p_, p_);
  return finish(batch.count, square_sums_[0], gradient_sums_.data(), g);
}

void MseProblem::block_sums(const void* w, Batch batch, void* r, double* squares, double* gradient) {
  const MseKernels& kernels = active_isa().mse[type_];
  reserve(batch.count, gradient != nullptr);
  FpMode mode;  // for what this thread does beside run_items()
  kernels.widen(w, p_, w_.data());
  double* lanes = gradient != nullptr ? lanes_.data() : nullptr;
  MseBlock block{Phi_, y_, w_.data(), p_, batch.rows, 0, 0, r, lanes, gradient, squares};
  Evaluation evaluation{kernels, block, batch.count, kLanes * padded_columns(p_)};
  Task task = [](void* context, Index seat) { static_cast<Evaluation*>(context)->run_blocks(seat); };
  // No more seats than there are lanes for: another thread may have changed the number of threads by now.
  Index seats = seats_for(batch.count, p_);
  if (gradient != nullptr) seats = std::min<Index>(seats, lanes_.size() / evaluation.lanes_size);
  run_items(seats, task, &evaluation);
}

double MseProblem::finish(Index rows, double squares, const double* gradient, void* g) const {
  const MseKernels& kernels = active_isa().mse[type_];
  FpMode mode;
  if (g != nullptr) kernels.gradient(scale_, rows, gradient, p_, g);
  return kernels.loss(scale_, rows, squares);
}

}  // namespace samestep
