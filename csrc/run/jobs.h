// Canonical sums, batch norm, matrix products, convolution, functions of one value and softmax over the threads. Each
// job is cut into work items by the file of its name: sums.cpp, batchnorm.cpp, ...; where the cuts of a sum fall
// depends on sizes alone. Nothing is checked here: the bindings have.
#pragma once

#include <vector>

#include "isa/kernels.h"

namespace samestep {

// out (outer, inner) = csum over the middle axis of x (outer, n, inner).
void canonical_sum(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out);

// The values x (n).
struct Run {
  Type type;
  const void* x;
  Index n;
};

// |scale|*sqrt(sum of all squares): csum(x*x) of each run, these sums paired in the order of the list.
double global_norm(const std::vector<Run>& runs, double scale = 1.0);

// Runs a batch norm. The caller sets sizes, arrays and eps; coefficients, repeats, sums, stream and fetch are set here.
void run_batchnorm(Type type, Direction direction, bool relu, BatchNorm job);

// Adds one batch to the running mean and var (channels): see contract/batchnorm.h.
void update_running(Type type, const double* mean64, const double* var64, Index channels, Index values, double momentum,
                    Index batches, void* mean, void* var);

// Runs a matrix product.
void run_product(Type type, const Product& p);

// The gradients of y = x w + bias, with a ReLU if y.data is given: of x, w and bias, each unless it is nullptr.
struct LinearBackward {
  Matrix dy, y, x, w;  // (rows, columns) twice, (rows, inputs), (inputs, columns)
  void *dx, *dw, *dbias;
  void* dw_turned = nullptr;  // (columns, inputs), the transpose of dw
};
void run_linear_backward(Type type, const LinearBackward& b);

inline Matrix transposed(const Matrix& a) { return {a.data, a.columns, a.rows, a.column_stride, a.row_stride}; }

// c = a b, without gaps.
inline Product product_of(const Matrix& a, const Matrix& b, void* c) {
  return {a.rows,          b.columns,    a.columns,       a.data, b.data,    nullptr, a.row_stride,
          a.column_stride, b.row_stride, b.column_stride, c,      b.columns, false};
}

// y of a convolution; dx (unless nullptr) and dw of it. The caller sets what each reads and writes: the second, y, with
// which dy is masked, unless it is nullptr, and dy in the order of y.
void run_convolution(Type type, const Convolution& v);
void run_convolution_backward(Type type, Convolution v, const void* y, void* dbias);

// out = function(x), both (n), by the row of the table's functions; out may be x.
void map_function(int function, Type type, const void* x, Index n, void* out);

// L; dz is written. The caller sets all but losses; rows and columns are 1 or more.
double softmax_cross_entropy(Type type, Softmax job);

}  // namespace samestep
