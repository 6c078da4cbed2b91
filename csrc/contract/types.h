// What formulas and kernels speak of: numbers, types, and the arguments of a batch norm and of a block of rows.
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

}  // namespace samestep
