// Cuts products of matrices into tiles of the result, and gives each thread the memory for its panels.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "run/threads.h"

namespace samestep {

// Of a tile, at most. Its columns of B, 256 terms deep, should stay in the second-level cache; they are packed once for
// all of its rows.
constexpr Index kTileRows = 1024, kTileColumns = 512;
constexpr Index kPanelRows = 12;            // of A: the most of any instruction set
constexpr Index kColumnUnit = 64;           // columns: whole vectors of any instruction set
constexpr Index kItemTerms = 1 << 19;       // fused multiply-adds for which another thread pays: some 10 microseconds
constexpr Index kOneThreadTerms = 1 << 21;  // and fewer are not worth waking a thread for
constexpr std::size_t kAlignment = 64;      // of packed vectors

// Bytes of the panels of a tile of so many columns and terms.
inline Index panel_bytes(Index columns, Index terms, Index size_of) {
  return (kPanelRows + ceil_div(columns, 16) * 16) * std::max<Index>(1, std::min(terms, kProductBlock)) * size_of;
}

// Memory for the panels of as many tiles as run at a time. A thread takes a slot for each tile, since items do not know
// their thread.
class Slots {
 public:
  Slots(Index count, Index bytes)
      : bytes_(ceil_div(bytes, kAlignment) * kAlignment),
        memory_(static_cast<char*>(::operator new(count * bytes_, std::align_val_t(kAlignment)))),
        is_taken_(count) {}

  void* take() {
    for (Index i = 0;; i = i + 1 < Index(is_taken_.size()) ? i + 1 : 0) {
      if (is_taken_[i].exchange(1, std::memory_order_acquire) == 0) return memory_.get() + i * bytes_;
    }
  }
  void give_back(void* slot) {
    const Index i = (static_cast<char*>(slot) - memory_.get()) / bytes_;
    is_taken_[i].store(0, std::memory_order_release);
  }

 private:
  struct Delete {
    void operator()(char* memory) const { ::operator delete(memory, std::align_val_t(kAlignment)); }
  };
  Index bytes_;
  std::unique_ptr<char, Delete> memory_;
  std::vector<std::atomic<int>> is_taken_;  // ints: riscv64 has no exchange of a byte
};

// run(item, scratch) for each of the items, over the threads; scratch: so many bytes that no other item uses meanwhile.
template <class Run>
void run_with_scratch(Index items, Index bytes, const Run& run, bool worth_waking) {
  struct Job {
    const Run& run;
    Slots slots;
  } job{run, {std::min<Index>(get_num_threads(), items), bytes}};
  run_items(
      items,
      [](void* context, Index item) {
        Job& j = *static_cast<Job*>(context);
        void* scratch = j.slots.take();
        j.run(item, scratch);
        j.slots.give_back(scratch);
      },
      &job, worth_waking);
}

// n things in nearly equal parts.
struct Cut {
  Index n, parts;
  Index begin(Index i) const { return i * n / parts; }
};

// `matrices` results (m, n), each of so many terms, cut into tiles. m, n and matrices are at least 1.
class Tiles {
 public:
  Tiles(Index matrices, Index m, Index n, Index terms)
      : matrices_(matrices),
        n_(n),
        terms_(double(matrices) * double(m) * double(n) * double(terms)),
        rows_{m, ceil_div(m, kTileRows)},
        units_{ceil_div(n, kColumnUnit), ceil_div(n, kTileColumns)} {
    // Several for each thread, so that one that is held up leaves its tiles to others.
    while (count() < 4 * get_num_threads() && terms_ > double(count() * kItemTerms) && split()) {
    }
  }

  Index most_columns() const { return std::min(n_, ceil_div(units_.n, units_.parts) * kColumnUnit); }

  // run(matrix, row, rows, column, columns, scratch) for each tile. Tiles one below the other follow each other, for
  // they read the same columns of B.
  template <class Run>
  void run(Index scratch_bytes, const Run& run) const {
    run_with_scratch(
        count(), scratch_bytes,
        [&](Index item, void* scratch) {
          const Index i = item % rows_.parts, j = item / rows_.parts % units_.parts;
          const Index row = rows_.begin(i), column = units_.begin(j) * kColumnUnit;
          const Index end = std::min(n_, units_.begin(j + 1) * kColumnUnit);
          run(item / rows_.parts / units_.parts, row, rows_.begin(i + 1) - row, column, end - column, scratch);
        },
        terms_ > double(kOneThreadTerms));
  }

 private:
  Index count() const { return matrices_ * rows_.parts * units_.parts; }
  Index most_rows() const { return ceil_div(rows_.n, rows_.parts); }

  // More tiles, halves of the present ones.
  bool split() {
    Cut& longer = most_rows() >= most_columns() ? rows_ : units_;
    Cut& cut = longer.parts < longer.n ? longer : &longer == &rows_ ? units_ : rows_;
    if (cut.parts >= cut.n) return false;
    cut.parts = std::min(cut.n, 2 * cut.parts);
    return true;
  }

  Index matrices_, n_;
  double terms_;      // of all of them
  Cut rows_, units_;  // units of kColumnUnit columns
};

}  // namespace samestep
