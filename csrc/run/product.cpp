// Runs matrix products by tiles, and composes the gradients of a linear layer. No arithmetic: that is in
// contract/product.h.
#include <algorithm>
#include <memory>
#include <vector>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"
#include "run/tiles.h"

namespace samestep {
namespace {

constexpr Index kItemElements = 16384;       // of the masked gradient: some 10 microseconds
constexpr Index kOneThreadElements = 65536;  // and fewer are not worth waking a thread for

}  // namespace

void run_product(Type type, const Product& p) {
  if (p.m == 0 || p.n == 0) return;
  const Tiles tiles(1, p.m, p.n, p.k);
  const ProductTile tile = active_isa().product_tile[type];
  tiles.run(panel_bytes(tiles.most_columns(), p.k, bytes_of(type)),
            [&](Index, Index row, Index rows, Index column, Index columns, void* scratch) {
              tile(p, row, rows, column, columns, scratch);
            });
}

void run_linear_backward(Type type, const LinearBackward& b) {
  const Isa& isa = active_isa();
  const Index size = bytes_of(type), rows = b.dy.rows, columns = b.dy.columns;
  // dy masked by the ReLU, or in C order for the sum over its rows.
  Matrix dy = b.dy;
  std::unique_ptr<char[]> copy;
  if (b.y.data != nullptr || dy.column_stride != 1 || dy.row_stride != columns) {
    copy.reset(new char[rows * columns * size]);
    run_parts(
        rows, kItemElements / std::max<Index>(1, columns),
        [&](Index begin, Index end) { isa.relu_gradient[type](b.dy, b.y, begin, end, copy.get()); },
        rows * columns > kOneThreadElements);
    dy = {copy.get(), rows, columns, columns, 1};
  }
  if (b.dx != nullptr) run_product(type, product_of(dy, transposed(b.w), b.dx));
  run_product(type, product_of(transposed(b.x), dy, b.dw));
  std::vector<double> sums(columns);
  canonical_sum(type, values, dy.data, 1, rows, columns, sums.data());
  FpMode mode;
  isa.round_sums[type](sums.data(), columns, b.dbias);
}

}  // namespace samestep
