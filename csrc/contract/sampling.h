// Which rows each step is computed from: unbiased draws, permutations, batches. Integers only. The Python twin,
// backends/reference/sampling.py, writes down how a word becomes a draw.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "contract/philox.h"
#include "contract/types.h"

namespace samestep {

// Word i is element i mod 4 of the block at counter (i div 4 + 1, 0, 0, 0) under key (seed, 0), as NumPy's
// Philox(key=seed).random_raw has them.
class Philox {
 public:
  explicit Philox(std::uint64_t seed) : seed_(seed) {}

  std::uint64_t next() {
    if (used_ == 4) generate();
    return words_[used_++];
  }

 private:
  void generate() {
    philox({++counter_, 0, 0, 0}, seed_, words_);
    used_ = 0;
  }

  std::uint64_t seed_, counter_ = 0, words_[4] = {};
  int used_ = 4;
};

// Draws and permutations from the words of one seed.
class Sampler {
 public:
  explicit Sampler(std::uint64_t seed) : philox_(seed) {}

  // word mod n, uniform on 0..n-1, n >= 1. Words from 2^64 - (2^64 mod n) on would favour small numbers: drawn again.
  Index draw(std::uint64_t n) {
    std::uint64_t word = philox_.next();
    std::uint64_t value = word % n;
    // Such a word lies in the last, incomplete run of n words: word - value, where that run begins, plus n - 1 is past
    // 2^64 - 1. Comparing that needs no second division for 2^64 mod n.
    while (word - value > UINT64_MAX - (n - 1)) {
      word = philox_.next();
      value = word % n;
    }
    return static_cast<Index>(value);
  }

  // A permutation of 0..n-1, each equally likely (Fisher and Yates).
  void shuffle(Index* order, Index n) {
    for (Index i = 0; i < n; ++i) order[i] = i;
    for (Index i = n - 1; i > 0; --i) std::swap(order[i], order[draw(static_cast<std::uint64_t>(i) + 1)]);
  }

  // m independent draws from 0..n-1.
  void draws(Index* out, Index m, Index n) {
    for (Index k = 0; k < m; ++k) out[k] = draw(static_cast<std::uint64_t>(n));
  }

 private:
  Philox philox_;
};

enum class Sampling { full, shuffle, with_replacement };

// The rows of one step: rows[0..count-1], or rows 0..count-1 of Phi where `rows` is null.
struct Batch {
  const Index* rows;
  Index count;
};

// The batches of step after step, without end.
class Batches {
 public:
  // size: rows of Phi. batch_size: rows of a step; ignored by Sampling::full.
  Batches(Sampling sampling, Index size, Index batch_size, std::uint64_t seed)
      : sampling_(sampling), size_(size), batch_size_(batch_size), sampler_(seed) {
    if (sampling == Sampling::shuffle) order_.resize(size);
    // Whole batches are drawn ahead, so that row_ahead() knows their rows: the draws are the same.
    if (sampling == Sampling::with_replacement) order_.resize(batch_size * (1 + kRowsDrawnAhead / batch_size));
    used_ = static_cast<Index>(order_.size());
  }

  // Stays valid until the next call.
  Batch next() {
    if (sampling_ == Sampling::full) return {nullptr, size_};
    const Index drawn = static_cast<Index>(order_.size());
    if (used_ == drawn) {
      if (sampling_ == Sampling::shuffle) sampler_.shuffle(order_.data(), drawn);
      if (sampling_ == Sampling::with_replacement) sampler_.draws(order_.data(), drawn, size_);
      used_ = 0;
    }
    Batch batch{order_.data() + used_, std::min(batch_size_, drawn - used_)};
    used_ += batch.count;
    return batch;
  }

  // The row that is used `distance` rows after the last batch, or -1 where it is not drawn yet.
  Index row_ahead(Index distance) const {
    return used_ + distance < static_cast<Index>(order_.size()) ? order_[used_ + distance] : -1;
  }

  // Rows of the largest batch.
  Index largest() const { return sampling_ == Sampling::full ? size_ : batch_size_; }

 private:
  static constexpr Index kRowsDrawnAhead = 256;  // 2 KiB of numbers, more than train.cpp prefetches ahead

  Sampling sampling_;
  Index size_, batch_size_;
  Sampler sampler_;
  std::vector<Index> order_;  // rows of an epoch, or of the batches drawn ahead
  Index used_;                // how many of them earlier batches had
};

}  // namespace samestep
