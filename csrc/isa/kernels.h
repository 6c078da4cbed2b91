// The table that all others see: one row a rule, one table an instruction set. Declarations only.
#pragma once

namespace samestep {

using Index = long long;  // sizes and step counters: 64 bits everywhere

enum Type { float32, float64, kTypes };
// How a float32 is kept in memory: as itself or in 16 bits.
enum Storage { as_is, bfloat16, float16, kStorages };
constexpr Index bytes_of(Type type) { return type == float32 ? 4 : 8; }
constexpr int kMaxStates = 4;
constexpr int kMaxHyper = 8;
// From so many elements on, a run comes from memory: small arrays are cut finer (plan.cpp). Loops then ask for what
// follows, which costs up to a third of their time in cache and brings as much from memory.
constexpr Index kFar = 16384;

// A rule's coefficients at one step, ready for any kernel of that rule and type.
struct Coefficients {
  alignas(16) unsigned char bytes[96];
  double decay;  // lr*weight_decay, for decoupled weight decay
};

// What a gradient goes through before the rule. Scale 1 and clip_value infinity change no bit.
struct Preparation {
  double scale, clip_value;
  double weight_decay;  // coupled
};

// Updates elements begin..end-1 of w and of each state from g.
struct Apply {
  void (*plain)(const Coefficients&, void* w, const void* g, void* const* states, Index begin, Index end);
  // Under decoupled weight decay; scales and clips the gradient as well.
  void (*decayed)(const Coefficients&, const Preparation&, void* w, const void* g, void* const* states, Index begin,
                  Index end);
};

// One rule for one type.
struct Update {
  // Forms the coefficients of step t (1, 2, ...) from the hyper-parameters in the row's order.
  void (*coefficients)(Index t, const double* hyper, Coefficients* out);
  Apply apply;
  Apply apply_bfloat16[2];  // w and g kept in bfloat16, the states not or too; of float32 only
};

struct Rule {
  const char* name;
  const char* hyper;   // names, separated by blanks
  const char* states;  // likewise
  int n_hyper, n_states;
  Update update[kTypes];
};

// The options of options.h for one type, over n elements.
struct OptionKernels {
  void (*prepare)(const Preparation&, const void* w, const void* g, Index n, void* out);
  void (*prepare_decayed)(const Preparation&, const void* w, const void* g, Index n, void* out);
  void (*average)(double decay, const void* w, Index n, void* ema);
  void (*flush_subnormals)(Index n, void* state);
  bool (*all_finite)(const void* g, Index n);
};

// To and from 16 bits; the first row of the table is empty.
struct StorageKernels {
  void (*widen)(const void* stored, Index n, float* out);
  void (*narrow)(const float* x, Index n, void* stored);
};

// The terms of a sum.
enum Terms { values, squares, kTermsKinds };

// The canonical sum for one type and kind of terms, a block of 1024 terms at a time.
struct Sum {
  // The sums of blocks first..last-1 of the n terms from x on, to out[0], out[1], ...
  void (*run)(const void* x, Index n, Index first, Index last, double* out);
  // The sums of `width` <= kSumColumns columns over rows <= 1024, `stride` elements apart, to out[0..width-1].
  void (*columns)(const void* x, Index rows, Index width, Index stride, double* out);
};
constexpr Index kSumBlock = 1024;
constexpr Index kSumColumns = 256;

// A batch norm at work: channels of samples * positions values each. Arrays are of the kernel's type but for double
// ones.
struct BatchNorm {
  Index samples, channels, positions;  // N, C, S
  bool channels_last;                  // value (n, c, s) is at (n*S + s)*C + c, else at (n*C + c)*S + s
  bool stream;                         // write out past the caches
  Index ahead;                         // while applying element i, fetch element i + ahead of what is read; 0: none
  double eps;
  const void *x, *dy, *gamma, *beta, *var;
  void *mean, *inv;        // forward writes them, backward reads them; inference reads mean and var
  double *mean64, *var64;  // written by forward
  void *dgamma, *dbeta;    // written by backward
  void* out;

  // Scratch: kCoefficients values for each channel, all channels `repeats` times over; two block sums a channel.
  void* coefficients;
  Index repeats;
  double* sums;
};
constexpr int kCoefficients = 7;

// For a channel, or a range of them: prepare, add every block, finish; then apply. Inference: prepare, apply.
struct BatchNormKernel {
  void (*prepare)(const BatchNorm&, Index begin, Index end);
  // Channels-last: end - begin <= kSumColumns, or as many as there are channels.
  void (*add_blocks)(const BatchNorm&, Index begin, Index end, Index first_block, Index last_block);
  void (*finish)(const BatchNorm&, Index begin, Index end);
  // Elements begin..end-1 in the order of memory. Channels-last: whole rows.
  void (*apply)(const BatchNorm&, Index begin, Index end);
};
enum Direction { forward, backward, inference, kDirections };

// c of L = (c/2)|Phi w - y|^2: a factor, or a factor over the number of rows.
struct Scale {
  double factor;
  bool per_row;
};

// A run of rows of one block of a batch, and where its sums go.
struct MseBlock {
  const void* Phi;  // rows of p elements, one after the other
  const void* y;
  const double* w;
  Index p;
  const Index* rows;      // of the batch; nullptr: 0, 1, 2, ...
  Index begin, count;     // the block: rows begin..begin+count-1 of the batch, count <= kSumBlock
  void* r;                // residuals of the batch; nullptr: not wanted
  double* lanes;          // room for 32 rows of padded_columns(p); nullptr: no gradient wanted
  double* gradient_sums;  // p sums over the block
  double* square_sum;
};

// Rows of sums are as long as whole vectors of any instruction set.
static constexpr Index padded_columns(Index p) { return (p + 7) / 8 * 8; }

// The mean squared error for one type.
struct MseKernels {
  void (*widen)(const void* w, Index p, double* wide);
  void (*block)(const MseBlock&);
  void (*gradient)(Scale scale, Index rows, const double* sums, Index p, void* g);
  double (*loss)(Scale scale, Index rows, double squares);
  void (*row)(const void* row, const void* y, const void* w, Index p, Scale scale, void* g);  // gradient of one row
};

// Everything compiled for one instruction set.
struct Isa {
  const char* name;
  int vector_bytes;  // as the compiler saw it: proves which table runs
  const Rule* rules;
  int n_rules, n_roofs;  // the roofs (roofs.h) lie behind the rules
  OptionKernels options[kTypes];
  StorageKernels storage[kStorages];
  void (*narrow_at_random)(const float* x, const unsigned short* random, Index n, void* bfloat16s);
  void (*join)(const void* upper, const void* lower, Index n, float* out);
  void (*split)(const float* x, Index n, void* upper, void* lower);
  double (*decoupled_decay)(double lr, double weight_decay);
  double (*clip_scale)(double scale, double norm, double clip_norm);  // norm: of the gradients, `scale` times
  Sum sum[kTypes][kTermsKinds];
  // Pairs n rows of `width` block sums, `stride` apart, in place; the total is left in the first.
  void (*pair)(double* sums, Index n, Index width, Index stride);
  double (*root)(double);
  BatchNormKernel batchnorm[kTypes][kDirections][2];  // the last: without and with ReLU
  void (*update_running[kTypes])(const double* mean64, const double* var64, Index channels, Index values,
                                 double momentum, Index batches, void* mean, void* var);
  MseKernels mse[kTypes];
};

}  // namespace samestep
