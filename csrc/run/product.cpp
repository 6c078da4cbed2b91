// Cuts matrix products into tiles of the result, gives each thread the memory for its panels, and composes the
// gradients of a linear layer. No arithmetic: that is in contract/product.h.
#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <vector>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Of a tile, at most. Its columns of B, 256 terms deep, should stay in the second-level cache; they are packed once for
// all of its rows.
constexpr Index kTileRows = 1024, kTileColumns = 512;
constexpr Index kPanelRows = 12;            // of A: the most of any instruction set
constexpr Index kLeastRows = 48;            // for which it pays to pack a tile's columns of B
constexpr Index kColumnUnit = 64;           // columns: whole vectors of any instruction set
constexpr Index kItemTerms = 1 << 19;       // fused multiply-adds for which another thread pays: some 10 microseconds
constexpr Index kOneThreadTerms = 1 << 21;  // and fewer are not worth waking a thread for
constexpr Index kItemElements = 16384;      // of the masked gradient, likewise
constexpr Index kOneThreadElements = 65536;
constexpr std::size_t kAlignment = 64;  // of packed vectors

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

// n things in nearly equal parts.
struct Cut {
  Index n, parts;
  Index begin(Index i) const { return i * n / parts; }
};

struct Tiles {
  const Product& p;
  ProductTile tile;
  Cut rows, units;  // units of kColumnUnit columns
  Slots* slots;

  Index count() const { return rows.parts * units.parts; }
  Index most_rows() const { return ceil_div(rows.n, rows.parts); }
  Index most_columns() const { return std::min(p.n, ceil_div(units.n, units.parts) * kColumnUnit); }

  // More tiles, halves of the present ones, none of fewer rows than so many.
  bool split(Index least_rows) {
    const bool may_cut_rows = rows.n / (2 * rows.parts) >= least_rows, may_cut_columns = units.parts < units.n;
    if (!may_cut_rows && !may_cut_columns) return false;
    Cut& cut = may_cut_rows && (!may_cut_columns || most_rows() >= most_columns()) ? rows : units;
    cut.parts = std::min(cut.n, 2 * cut.parts);
    return true;
  }

  // Tiles one below the other follow each other, for they read the same columns of B.
  void run(Index item) const {
    const Index i = item % rows.parts, j = item / rows.parts;
    const Index row = rows.begin(i), column = units.begin(j) * kColumnUnit;
    const Index end = std::min(p.n, units.begin(j + 1) * kColumnUnit);
    void* scratch = slots->take();
    tile(p, row, rows.begin(i + 1) - row, column, end - column, scratch);
    slots->give_back(scratch);
  }
};

}  // namespace

void run_product(Type type, const Product& p) {
  if (p.m == 0 || p.n == 0) return;
  const Index size = bytes_of(type), deep = std::max<Index>(1, std::min(p.k, kProductBlock));
  Tiles tiles{p, active_isa().product_tile[type], {p.m, 1}, {ceil_div(p.n, kColumnUnit), 1}, nullptr};
  tiles.rows.parts = ceil_div(p.m, kTileRows);
  tiles.units.parts = ceil_div(p.n, kTileColumns);
  const Index threads = get_num_threads();
  const double terms = double(p.m) * double(p.n) * double(p.k);
  const auto cut = [&](Index wanted, Index least_rows) {
    while (tiles.count() < wanted && terms > double(tiles.count() * kItemTerms) && tiles.split(least_rows)) {
    }
  };
  if (threads > 1) {
    cut(4 * threads, kLeastRows);  // several for each thread, so that one that is held up leaves its tiles to others
    cut(threads, kPanelRows);
  }
  Slots slots(std::min(threads, tiles.count()), (kPanelRows + ceil_div(tiles.most_columns(), 16) * 16) * deep * size);
  tiles.slots = &slots;
  run_items(
      tiles.count(), [](void* context, Index item) { static_cast<const Tiles*>(context)->run(item); }, &tiles,
      terms > double(kOneThreadTerms));
}

void run_linear_backward(Type type, const LinearBackward& b) {
  const Isa& isa = active_isa();
  const Index size = bytes_of(type), rows = b.dy.rows, columns = b.dy.columns;
  // dy masked by the ReLU, or in C order for the sum over its rows.
  Matrix dy = b.dy;
  std::unique_ptr<char[]> copy;
  const bool has_gaps = dy.column_stride != 1 || dy.row_stride != columns;
  if (b.y.data != nullptr || (has_gaps && b.dbias != nullptr)) {
    copy.reset(new char[rows * columns * size]);
    run_parts(
        rows, kItemElements / std::max<Index>(1, columns),
        [&](Index begin, Index end) { isa.relu_gradient[type](b.dy, b.y, begin, end, copy.get()); },
        rows * columns > kOneThreadElements);
    dy = {copy.get(), rows, columns, columns, 1};
  }
  if (b.dx != nullptr) run_product(type, product_of(dy, transposed(b.w), b.dx));
  if (b.dw != nullptr) run_product(type, product_of(transposed(b.x), dy, b.dw));
  if (b.dw_turned != nullptr) run_product(type, product_of(transposed(dy), b.x, b.dw_turned));
  if (b.dbias == nullptr) return;
  std::vector<double> sums(columns);
  canonical_sum(type, values, dy.data, 1, rows, columns, sums.data());
  FpMode mode;
  isa.round_sums[type](sums.data(), columns, b.dbias);
}

}  // namespace samestep
