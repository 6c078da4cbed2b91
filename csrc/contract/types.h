// What all formulas and kernels share: number types, sizes that fix bits, and the arguments of a batch norm and of a
// block of rows.
#pragma once

namespace samestep {

using Index = long long;  // sizes and step counters: 64 bits everywhere

static constexpr Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

enum Type { float32, float64, kTypes };
// How a float32 is kept in memory: as itself or in 16 bits.
enum Storage { as_is, bfloat16, float16, kStorages };
constexpr Index bytes_of(Type type) { return type == float32 ? 4 : 8; }
constexpr int kMaxStates = 4;
constexpr int kMaxHyper = 8;

// Elements of the shortest run that a loop prefetches for. Runs of that length come from memory, since plan.cpp cuts
// small arrays finer. Prefetching saves up to a third of a loop's time there, and costs up to a third in cache.
constexpr Index kShortestPrefetched = 16384;

// A rule's coefficients at one step, ready for any kernel of that rule and type.
struct Coefficients {
  alignas(16) unsigned char bytes[96];
  double decay;  // lr*weight_decay, for decoupled weight decay
};

// The canonical sum (sums.h). The first two fix bits.
constexpr Index kSumBlock = 1024;      // terms of a block
constexpr Index kLanes = 32;           // of a block: each adds every 32nd term
constexpr Index kJoinedColumns = 128;  // rows of fewer columns are summed 32 at a time, as one long row
constexpr Index kSumColumns = 256;  // summed at a time: their lanes are 128 KiB for two sums, within the second cache

// Bytes of a block of a fingerprint (fingerprint.h). It fixes bits. What of an array is read: numbers, or mere bits.
constexpr Index kFingerprintBytes = 1024;
enum Contents { numbers32, numbers64, numbers_bfloat16, numbers_float16, bits16, kContents };

// The arguments of a batch norm. Arrays are of the kernel's type T, those of double excepted.
struct BatchNorm {
  Index samples, channels, positions;  // N, C, S
  bool channels_last;                  // value (n, c, s) is at (n*S + s)*C + c, else at (n*C + c)*S + s
  bool stream;                         // write out past the caches
  bool fetch;                          // planes: fetch what is read and written soon
  double eps;
  const void *x, *dy;              // (N, C, S), or (N, S, C) channels last
  const void *gamma, *beta, *var;  // (C)
  void *mean, *inv;                // (C); forward writes them, backward reads them; inference reads mean and var
  double *mean64, *var64;          // (C), written by forward
  void *dgamma, *dbeta;            // (C), written by backward
  void* out;                       // y or dx, like x

  // Where x is a part of a batch whose other samples lie elsewhere.
  const void* shift;  // (C), x_0 of the batch; nullptr: x begins with it
  Index values;       // M, of each channel in the batch
  Index first;        // terms of each channel that lie before the first block that is summed here

  // Scratch.
  void* coefficients;  // (kCoefficients, repeats, C), rows as batchnorm.h names them
  Index repeats;       // 1, or more for loops over columns that run on into the next rows
  Index blocks;        // of sums
  double* sums;        // block sums: (2, blocks, C) channels last, (C, 2, blocks) in planes
};
constexpr int kCoefficients = 7;

// The terms of a chain of the matrix product (product.h); it fixes bits.
constexpr Index kProductBlock = 256;

// C (m, n) = A B + bias, then ReLU if asked. Arrays are of the kernel's type T; strides are in elements, and those of A
// and B may be anything.
struct Product {
  Index m, n, k;
  const void *a, *b, *bias;  // (m, k), (k, n), (n) or nullptr
  Index a_row, a_k, b_k, b_column;
  void* c;      // (m, n), whose rows have no gaps
  Index c_row;  // from one row to the next
  bool relu;
};

// A convolution; arrays are of the kernel's type T, without gaps. Of two numbers the first is of rows, the second of
// columns. C and O are the channels of one group.
struct Convolution {
  Index samples, groups, channels, outputs;  // N, G, C, O
  Index size[2], kernel[2], out_size[2];     // (H, W), (R, S), (H', W')
  Index stride[2], padding[2], dilation[2];  // padding: before the first; behind the last is what out_size needs
  const void *x, *w, *bias;                  // (N, G*C, H, W), (G*O, C, R, S), (G*O) or nullptr
  const void* dy;                            // (G*O, N, H', W'): channels first
  const void* w_by_tap;                      // (R*S, G*O, C), the weight again, for dx
  void *y, *dx, *dw;                         // (N, G*O, H', W'), like x, like w
  bool relu;
};
static constexpr Index positions_of(const Convolution& v) { return v.out_size[0] * v.out_size[1]; }
static constexpr Index taps_of(const Convolution& v) { return v.kernel[0] * v.kernel[1]; }
static constexpr Index terms_of(const Convolution& v) { return v.channels * taps_of(v); }  // K

// c of L = (c/2)|Phi w - y|^2: a factor, or a factor over the number of rows.
struct Scale {
  double factor;
  bool per_row;
};

// One block of the rows of a batch, and where its sums go.
struct MseBlock {
  const void* Phi;        // (rows, p)
  const void* y;          // (rows)
  const double* w;        // (p), widened
  Index p;                // columns
  const Index* rows;      // (batch), numbers of rows of Phi; nullptr: 0, 1, 2, ...
  Index begin, count;     // the block: rows begin..begin+count-1 of the batch, count <= kSumBlock
  void* r;                // (batch), residuals; nullptr: they are not stored
  double* lanes;          // scratch (kLanes, padded_columns(p)); nullptr: no gradient is computed
  double* gradient_sums;  // (p), over the block
  double* square_sum;     // (1)
};

// The arguments of a softmax with cross-entropy.
struct Softmax {
  const void* z;        // (rows, columns), logits
  const Index* labels;  // (rows), the right column of each row
  Index rows, columns;
  void* losses;  // (rows)
  void* dz;      // (rows, columns)
};

// The length of a row of p sums, so that whole vectors of any instruction set (8 doubles at most) fill it.
static constexpr Index padded_columns(Index p) { return (p + 7) / 8 * 8; }

}  // namespace samestep
