// Canonical sums, leaves, batch norm, matrix products, convolution, functions of one value and softmax over the
// threads. Each job is cut into work items by the file of its name: sums.cpp, batchnorm.cpp, ...; where the cuts of a
// sum fall depends on sizes alone. Nothing is checked here: the bindings have.
#pragma once

#include <vector>

#include "isa/kernels.h"

namespace samestep {

// out (outer, blocks, inner) = the block sums over the middle axis of x (outer, n, inner): of 1024 terms, the last of
// perhaps fewer.
void block_sums(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out);

// out (outer, inner) = the block sums (outer, blocks, inner) in pairs; they are overwritten.
void pair_sums(double* sums, Index outer, Index blocks, Index inner, double* out);

// out (outer, inner) = csum over the middle axis of x (outer, n, inner).
void canonical_sum(Type type, Terms terms, const void* x, Index outer, Index n, Index inner, double* out);

// |scale|*sqrt(the sums in pairs); 0 of no sum.
double norm_of(std::vector<double> sums, double scale = 1.0);

// The scale that shortens gradients whose norm, times `scale`, is above clip_norm to that norm.
double clipped_scale(double scale, double norm, double clip_norm);

// The values x (n).
struct Run {
  Type type;
  const void* x;
  Index n;
};

// norm_of csum(x*x) of each run, in the order of the list.
double global_norm(const std::vector<Run>& runs, double scale = 1.0);

// out (n) = T(weight)*g (n), where g is float32 kept with this storage, or of any type as it is; out may be g there.
// With weight 0 g is not read.
void weigh_leaf(Type type, Storage storage, const void* g, double weight, Index n, void* out);

// sum (n) = sum + other (n); they share no memory.
void add_leaves(Type type, const void* other, Index n, void* sum);

// out (n) = total (n)/T(weight); out is kept with this storage, and may be total where that is as it is.
void average_leaves(Type type, const void* total, double weight, Index n, Storage storage, void* out);

// The fingerprint of x (n elements).
unsigned long long fingerprint(Contents contents, const void* x, Index n);

// Runs a batch norm. The caller sets sizes, arrays and eps; coefficients, repeats, sums, stream and fetch are set here.
void run_batchnorm(Type type, Direction direction, bool relu, BatchNorm job);

// The same for one part of a batch; job.shift (forward), job.values and job.sums are given. First the sums of
// job.blocks blocks of x from term job.first on; then, with job.sums the totals of both sums over the batch, the rest.
void add_batchnorm_blocks(Type type, Direction direction, bool relu, const BatchNorm& job);
void apply_batchnorm_sums(Type type, Direction direction, bool relu, BatchNorm job);

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
