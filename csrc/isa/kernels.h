// The table of kernels, one for each instruction set. Declarations only.
#pragma once
#include "contract/types.h"

namespace samestep {

struct Preparation;  // options.h

// What a run of elements adds to the fingerprints of g, w and each state: see run_hashes.h.
struct RunHashes {
  Index first;                         // of the whole array's elements, the first of the run; a multiple of kSumBlock
  int n;                               // arrays
  const char* arrays[kMaxStates + 2];  // from the run's first element on
  unsigned long long sums[kMaxStates + 2];                  // over whole blocks
  alignas(64) unsigned long long lanes[kMaxStates + 2][8];  // of the block begun: a vector of any instruction set
};

// Updates elements begin..end-1 of w (n) and of each state (n) from g (n). hashes: nullptr, or of the same elements;
// the loop fills in what it hashes.
struct Apply {
  void (*plain)(const Coefficients&, void* w, const void* g, void* const* states, Index begin, Index end,
                RunHashes* hashes);
  // Under decoupled weight decay; scales and clips the gradient as well.
  void (*decayed)(const Coefficients&, const Preparation&, void* w, const void* g, void* const* states, Index begin,
                  Index end, RunHashes* hashes);
};

// One rule for one type.
struct Update {
  // Forms the coefficients of step t (1, 2, ...) from the hyper-parameters in the row's order.
  void (*coefficients)(Index t, const double* hyper, Coefficients* out);
  Apply apply;
  Apply apply_bfloat16[2];  // w and g kept in bfloat16, the states not or too; of float32 only
};

// One row of rules.h.
struct Rule {
  const char* name;
  const char *family, *form, *variant;  // form and variant: empty where there is none
  const char* hyper;                    // names, separated by blanks
  const char* states;                   // likewise
  int n_hyper, n_states;
  Update update[kTypes];
};

// The roof of rules that write so many streams (roofs.h), float32: without and with fetching ahead.
struct RoofKernels {
  void (*run[2])(float c, const float* g, float* const* written, Index begin, Index end);
};
constexpr int kMostWritten = 4;

// The options of options.h for one type, over n elements.
struct OptionKernels {
  void (*prepare)(const Preparation&, const void* w, const void* g, Index n, void* out);
  void (*prepare_decayed)(const Preparation&, const void* w, const void* g, Index n, void* out);
  void (*average)(double decay, const void* w, Index n, void* ema);
  void (*flush_subnormals)(Index n, void* state);
  bool (*all_finite)(const void* g, Index n);
};

// Between stored (n) in 16 bits and float32 (n); the row of Storage::as_is is empty.
struct StorageKernels {
  void (*widen)(const void* stored, Index n, float* out);
  void (*narrow)(const float* x, Index n, void* stored);
};

// The terms of a sum.
enum Terms { values, squares, kTermsKinds };

// The canonical sum for one type and kind of terms, by blocks of kSumBlock terms.
struct Sum {
  // x (n): the sums of blocks first..last-1 to out[0], out[1], ...
  void (*run)(const void* x, Index n, Index first, Index last, double* out);
  // x (rows, width), rows `stride` elements apart: the sum of each column to out (width). rows <= kSumBlock, width <=
  // kSumColumns.
  void (*columns)(const void* x, Index rows, Index width, Index stride, double* out);
};

// Fingerprints of what an array holds (fingerprint.h).
struct FingerprintKernels {
  // The sum over blocks first..last-1 of x (n elements), which begins with block `begin` of the whole array.
  unsigned long long (*blocks[kContents])(const void* x, Index n, Index first, Index last, Index begin);
  unsigned long long (*finish)(unsigned long long sum, unsigned long long bytes);
};

// Leaves for one type (leaves.h), over n elements.
struct LeafKernels {
  void (*weigh)(double weight, const void* g, Index n, void* out);
  void (*add)(const void* other, Index n, void* sum);
  void (*average)(double weight, const void* total, Index n, void* out);
};

// For channels begin..end-1: prepare, add every block, finish; then apply. Inference: prepare, apply.
struct BatchNormKernel {
  void (*prepare)(const BatchNorm&, Index begin, Index end);
  // Channels-last: end - begin <= kSumColumns, or as many as there are channels.
  void (*add_blocks)(const BatchNorm&, Index begin, Index end, Index first_block, Index last_block);
  void (*finish)(const BatchNorm&, Index begin, Index end);
  // Elements begin..end-1 in the order of memory. Channels-last: whole rows.
  void (*apply)(const BatchNorm&, Index begin, Index end);
};

enum Direction { forward, backward, inference, kDirections };

// The mean squared error for one type: the functions of mse.h, with the shapes that stand there.
struct MseKernels {
  void (*widen)(const void* w, Index p, double* wide);
  void (*block)(const MseBlock&);
  void (*gradient)(Scale scale, Index rows, const double* sums, Index p, void* g);
  double (*loss)(Scale scale, Index rows, double squares);
  void (*row)(const void* row, const void* y, const void* w, Index p, Scale scale, void* g);
};

// One tile of a matrix product: rows row..row+rows-1 of C, and columns likewise. scratch: run/tiles.h says how large.
using ProductTile = void (*)(const Product&, Index row, Index rows, Index column, Index columns, void* scratch);

// A matrix that is read; strides in elements.
struct Matrix {
  const void* data;
  Index rows, columns, row_stride, column_stride;
};

// out (rows, columns) without gaps: rows begin..end-1 of dy, +0 wherever y <= 0, unless y.data is nullptr.
using ReluGradient = void (*)(const Matrix& dy, const Matrix& y, Index begin, Index end, void* out);

// A part of an image: rows rows[0]..rows[1]-1, columns likewise.
struct Rectangle {
  Index rows[2], columns[2];
};

// Tiles of a convolution's products for one type (isa/convolution.h); scratch: convolution.cpp says how large.
struct ConvolutionKernels {
  // Rows and columns of a group's y[sample]; of its dw.
  void (*forward)(const Convolution&, Index sample, Index group, Index row, Index rows, Index column, Index columns,
                  void* scratch);
  void (*weight)(const Convolution&, Index group, Index row, Index rows, Index column, Index columns, void* scratch);
  // Channels of a group's dx[sample] within a rectangle; dpatches: memory for one tap's.
  void (*input)(const Convolution&, Index sample, Index group, Index channel, Index channels, const Rectangle&,
                void* dpatches, void* scratch);
};

// out = function(x), both (n), for each type; out may be x. A row of FOR_EACH_FUNCTION in functions.h.
struct Function {
  const char* name;
  void (*map[kTypes])(const void* x, Index n, void* out);
};

// Everything compiled for one instruction set.
struct Isa {
  const char* name;
  int vector_bytes;  // as the compiler saw it: proves which table runs
  const Rule* rules;
  int n_rules;
  RoofKernels roofs[kMostWritten];  // of 1, 2, ... written streams
  OptionKernels options[kTypes];
  StorageKernels storage[kStorages];
  void (*narrow_at_random)(const float* x, const unsigned short* random, Index n, void* bfloat16s);
  void (*join)(const void* upper, const void* lower, Index n, float* out);
  void (*split)(const float* x, Index n, void* upper, void* lower);
  double (*decoupled_decay)(double lr, double weight_decay);
  double (*clip_scale)(double scale, double norm, double clip_norm);  // norm: of the gradients, `scale` times
  Sum sum[kTypes][kTermsKinds];
  // Pairs block sums (n, width), rows `stride` apart, in place; the totals are left in the first row.
  void (*pair)(double* sums, Index n, Index width, Index stride);
  double (*root)(double);
  LeafKernels leaves[kTypes];
  FingerprintKernels fingerprint;
  BatchNormKernel batchnorm[kTypes][kDirections][2];  // without and with ReLU
  void (*update_running[kTypes])(const double* mean64, const double* var64, Index channels, Index values,
                                 double momentum, Index batches, void* mean, void* var);
  MseKernels mse[kTypes];
  ProductTile product_tile[kTypes];
  ReluGradient relu_gradient[kTypes];
  void (*round_sums[kTypes])(const double* sums, Index n, void* out);
  ConvolutionKernels convolution[kTypes];
  const Function* functions;
  int n_functions;
  void (*softmax_rows[kTypes])(const Softmax&, Index begin, Index end);
  double (*softmax_mean)(double sum, Index rows);
};

}  // namespace samestep
