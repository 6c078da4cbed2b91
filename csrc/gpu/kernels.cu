// The loops on a GPU. kernels.py joins this file and the headers it includes into one text and compiles that for the
// GPU at hand; the formulas are those of the headers, in the order of the contract, whatever the number of threads.
// Every kernel takes one struct, which kernels.py lays out by the same field names.
#include "contract/batchnorm.h"
#include "contract/fp.h"
#include "contract/mse.h"
#include "contract/options.h"
#include "contract/rules.h"
#include "contract/sums.h"
#include "contract/types.h"

namespace samestep {
namespace {

constexpr int kWarp = 32;  // as many threads as a canonical sum has lanes
static_assert(kWarp == kLanes, "a warp is the lanes of a block");
constexpr Index kTile = 32;          // columns that a block of threads sums at a time
constexpr Index kPairedRows = 1024;  // block sums that a block of threads pairs at a time

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
inline Index smaller(Index a, Index b) { return a < b ? a : b; }

inline Index my_warp() { return static_cast<Index>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp; }
inline Index my_thread() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }

// n values that are read and written at once.
template <class T, int n>
struct alignas(n * sizeof(T)) Pack {
  static constexpr int kSize = n;
  T at[n];
};
template <class T>
using Full = Pack<T, 16 / sizeof(T)>;
template <class T>
using Single = Pack<T, 1>;

inline bool is_aligned(const void* p) { return reinterpret_cast<unsigned long long>(p) % 16 == 0; }

// Runs body.run<P>(i) for the elements begin..end-1 that fall to this thread: P::kSize of them from i on, packs where
// the arrays are aligned at begin, then what is left one by one.
template <class T, class Body>
inline void for_each(const Body& body, bool aligned, Index begin, Index end) {
  if (aligned) {
    constexpr Index n = Full<T>::kSize;
    const Index packed = begin + (end - begin) / n * n;
    for (Index i = begin + n * threadIdx.x; i < packed; i += n * blockDim.x) body.template run<Full<T>>(i);
    begin = packed;
  }
  for (Index i = begin + threadIdx.x; i < end; i += blockDim.x) body.template run<Single<T>>(i);
}

template <class P, class T>
inline P load_pack(const T* from) {
  return *reinterpret_cast<const P*>(from);
}
template <class P, class T>
inline void store_pack(T* to, const P& values) {
  *reinterpret_cast<P*>(to) = values;
}

// ---- rules: a list of tensors in one launch ----

struct Row {  // of a tensor; the table's rows are as long as their states are many
  void* w;
  Index size;
  void* states[1];
};
struct Given {
  const void* g;
  Index group;  // tensors that take the same coefficients, in one launch; -1: sits the step out
};
struct Item {  // elements begin..begin+per_item-1 of one tensor
  Index tensor, begin;
};

struct Step {
  Coefficients coefficients;
  double scale, clip_value, weight_decay;  // of Preparation
  Index flush;                             // subnormals of the states, where not 0
  const char* rows;
  const Given* given;
  const Item* items;
  Index group, per_item;
};

template <int... k>
struct Numbers {};
template <int n, int... k>
struct UpTo : UpTo<n - 1, n - 1, k...> {};
template <int... k>
struct UpTo<0, k...> {
  using type = Numbers<k...>;
};

// The rule by itself, or with the options of options.h beside it, decoupled weight decay among them. A kernel each: who
// asks for nothing reads and computes nothing more.
enum Way { kPlain, kOptions, kDecoupled };

template <class R, class T, Way way, int... k>
struct Updated {
  const R rule;
  const PreparedGradient<T> prepared;
  const bool decays, flush;
  const T d;  // of Decayed
  T* w;
  const T* g;
  T* const* states;

  HD void update(T& w_e, T g_e, decltype(T(k))&... states_e) const {
    if constexpr (way != kPlain) g_e = prepared(w_e, g_e, decays);
    if constexpr (way == kDecoupled) {
      Decayed<T> decayed{w_e, d};
      rule(decayed, g_e, states_e...);
      w_e = decayed.w;
    } else {
      rule(w_e, g_e, states_e...);
    }
    if constexpr (way != kPlain) {
      if (flush) ((states_e = flushed(states_e)), ...);
    }
  }

  template <class P>
  void run(Index i) const {
    P w_i = load_pack<P>(w + i);
    const P g_i = load_pack<P>(g + i);
    P states_i[sizeof...(k) + 1] = {load_pack<P>(states[k] + i)...};
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) update(w_i.at[e], g_i.at[e], states_i[k].at[e]...);
    store_pack(w + i, w_i);
    (store_pack(states[k] + i, states_i[k]), ...);
  }
};

template <class R, class T, Way way, int... k>
inline void step_item(const Step& a, Numbers<k...>) {
  const Item item = a.items[blockIdx.x];
  const Given given = a.given[item.tensor];
  if (given.group != a.group) return;
  constexpr int kRowBytes = sizeof(void*) + sizeof(Index) + sizeof...(k) * sizeof(void*);
  const Row& row = *reinterpret_cast<const Row*>(a.rows + item.tensor * kRowBytes);
  T* const states[sizeof...(k) + 1] = {static_cast<T*>(row.states[k])...};
  const Updated<R, T, way, k...> updated{*reinterpret_cast<const R*>(a.coefficients.bytes),
                                         PreparedGradient<T>(Preparation{a.scale, a.clip_value, a.weight_decay}),
                                         a.weight_decay != 0.0,
                                         a.flush != 0,
                                         T(a.coefficients.decay),
                                         static_cast<T*>(row.w),
                                         static_cast<const T*>(given.g),
                                         states};
  const bool aligned = is_aligned(row.w) && is_aligned(given.g) && (is_aligned(row.states[k]) && ... && true);
  for_each<T>(updated, aligned, item.begin, smaller(row.size, item.begin + a.per_item));
}

// The numbers of a rule's states, read off operator()(w, g, states...), which may be a template over the type of w.
template <class R, class T, class... States>
typename UpTo<sizeof...(States)>::type numbers_of(void (R::*)(T&, T, States&...) const);
template <class R, class T>
auto states_of(int) -> decltype(numbers_of<R, T>(&R::template operator()<T>));
template <class R, class T>
auto states_of(long) -> decltype(numbers_of<R, T>(&R::operator()));

template <class R, class T, Way way>
void step(const Step& a) {
  step_item<R, T, way>(a, decltype(states_of<R, T>(0)){});
}

// Words that come with the launch itself: no copy of the host's to wait for.
struct Words {
  unsigned long long* to;
  Index count;
  unsigned long long words[480];
};

void put_words(const Words& a) {
  for (Index i = threadIdx.x; i < a.count; i += blockDim.x) a.to[i] = a.words[i];
}

// ---- canonical sums ----

// The sums of one block of terms: a thread of the warp is a lane. add(k, sums) adds term k.
template <int kSums, class Add>
inline void warp_block(const Add& add, Index first, Index last, double* out, Index stride) {
  const int lane = threadIdx.x % kWarp;
  double sums[kSums] = {};
#pragma unroll 4
  for (Index k = first + lane; k < last; k += kWarp) add(k, sums);
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
#pragma unroll
    for (int half = kWarp / 2; half > 0; half /= 2) {
      sums[s] = sums[s] + __shfl_down_sync(0xffffffffu, sums[s], half);
    }
    if (lane == 0) out[s * stride] = sums[s];
  }
}

// The sums of `width` <= kTile columns over rows first..last-1 of one block: a warp takes lane after lane, a thread of
// it is a column. add(row, column, sums) adds one term.
template <int kSums, class Add>
inline void tile_block(const Add& add, Index first, Index last, Index width, double* out, Index stride) {
  __shared__ double lanes[kSums][kLanes * kTile];
  const Index column = threadIdx.x % kTile;
  for (Index lane = threadIdx.x / kTile; lane < kLanes; lane += blockDim.x / kTile) {
    double sums[kSums] = {};
    if (column < width) {
#pragma unroll 4
      for (Index row = first + lane; row < last; row += kLanes) add(row, column, sums);
    }
    for (int s = 0; s < kSums; ++s) lanes[s][lane * kTile + column] = sums[s];
  }
  for (Index half = kLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    for (Index j = threadIdx.x; j < half * kTile; j += blockDim.x) {
      for (int s = 0; s < kSums; ++s) lanes[s][j] = lanes[s][j] + lanes[s][j + half * kTile];
    }
  }
  __syncthreads();
  if (threadIdx.x < width) {
    for (int s = 0; s < kSums; ++s) out[s * stride + column] = lanes[s][column];
  }
}

// Pairs n rows of `width` sums, as pair() of sums.h does, by all threads of the block; the total is left in the first.
inline void pair_by_block(double* sums, Index n, Index width, Index stride) {
  for (Index step = 1; step < n; step *= 2) {
    const Index pairs = ceil_div(n - step, 2 * step);
    for (Index t = threadIdx.x; t < pairs * width; t += blockDim.x) {
      const Index i = t / width * 2 * step, j = t % width;
      sums[i * stride + j] = sums[i * stride + j] + sums[(i + step) * stride + j];
    }
    __syncthreads();
  }
}

// The block sums over the middle axis of x (outer, n, inner), to out (outer, blocks, inner).
struct BlockSums {
  const void* x;
  Index outer, n, inner;
  double* out;
};

template <class T, class Terms>
void sum_runs(const BlockSums& a) {
  const Index blocks = ceil_div(a.n, kBlock), unit = my_warp();
  if (unit >= a.outer * blocks) return;
  const T* in[] = {static_cast<const T*>(a.x) + unit / blocks * a.n};
  const Index first = unit % blocks * kBlock;
  const auto add = [&](Index k, double* sums) { Terms{}.template operator()<T>(in, k, 0, sums); };
  warp_block<1>(add, first, smaller(a.n, first + kBlock), a.out + unit, 0);
}

template <class T, class Terms>
void sum_columns(const BlockSums& a) {
  const Index blocks = ceil_div(a.n, kBlock), tiles = ceil_div(a.inner, kTile);
  const Index column = blockIdx.x % tiles * kTile, unit = blockIdx.x / tiles;
  const T* in[] = {static_cast<const T*>(a.x) + unit / blocks * a.n * a.inner + column};
  const Index first = unit % blocks * kBlock;
  const auto add = [&](Index row, Index j, double* sums) {
    Terms{}.template operator()<T>(in, row * a.inner + j, j, sums);
  };
  tile_block<1>(add, first, smaller(a.n, first + kBlock), smaller(kTile, a.inner - column),
                a.out + unit * a.inner + column, 0);
}

// Sets of n rows of `width` sums, rows and sets so far apart. Each run of kPairedRows rows is paired; the next launch
// pairs what is left in their first rows.
struct Pairs {
  double* sums;
  Index sets, n, width, stride, set_stride;
};

void pair_runs(const Pairs& a) {
  const Index tiles = ceil_div(a.width, kTile), runs = ceil_div(a.n, kPairedRows);
  const Index column = blockIdx.x % tiles * kTile, run = blockIdx.x / tiles % runs, set = blockIdx.x / tiles / runs;
  pair_by_block(a.sums + set * a.set_stride + run * kPairedRows * a.stride + column,
                smaller(kPairedRows, a.n - run * kPairedRows), smaller(kTile, a.width - column), a.stride);
}

// ---- batch norm ----

// What batchnorm.py fills in; the fields are those of BatchNorm.
struct Norm {
  Index samples, channels, positions, channels_last;
  double eps;
  const void *x, *dy, *gamma, *beta, *var;
  void *mean, *inv;
  double *mean64, *var64;
  void *dgamma, *dbeta, *out;
  void* coefficients;
  double* sums;
  // finish() pairs what is left of the block sums: so many, so many rows apart. apply() takes so many elements a block.
  Index left, stride, per_block;
};

inline BatchNorm batchnorm_of(const Norm& a) {
  BatchNorm b{};
  b.samples = a.samples, b.channels = a.channels, b.positions = a.positions, b.channels_last = a.channels_last != 0;
  b.eps = a.eps, b.x = a.x, b.dy = a.dy, b.gamma = a.gamma, b.beta = a.beta, b.var = a.var;
  b.mean = a.mean, b.inv = a.inv, b.mean64 = a.mean64, b.var64 = a.var64;
  b.dgamma = a.dgamma, b.dbeta = a.dbeta, b.out = a.out;
  b.coefficients = a.coefficients, b.repeats = 1, b.sums = a.sums;
  return b;
}

// Channels one by one where they are planes, kTile of them together where they are columns.
inline Index together(const BatchNorm& b) { return b.channels_last ? kTile : 1; }

template <class D, class T>
void add_plane_blocks(const BatchNorm& b) {
  const Index blocks = blocks_of(b), S = b.positions, C = b.channels, unit = my_warp();
  if (unit >= C * blocks) return;
  const Index c = unit / blocks, block = unit % blocks, first = block * kBlock,
              last = smaller(b.samples * S, first + kBlock);
  D::prepare(b, c);
  const T* in[] = {static_cast<const T*>(b.x), static_cast<const T*>(b.dy)};
  const auto terms = D::template terms<ByChannel<T>>(b, c);
  // A lane's next term is 32 positions on, in this plane or in one of the next.
  Index sample = (first + threadIdx.x % kWarp) / S, position = (first + threadIdx.x % kWarp) % S;
  const Index samples_on = kWarp / S, positions_on = kWarp % S;
  const auto add = [&](Index, double* sums) {
    terms.template operator()<T>(in, (sample * C + c) * S + position, 0, sums);
    sample += samples_on;
    position += positions_on;
    if (position >= S) position -= S, ++sample;
  };
  warp_block<2>(add, first, last, b.sums + 2 * c * blocks + block, blocks);
}

template <class D, class T>
void add_column_blocks(const BatchNorm& b) {
  const Index blocks = blocks_of(b), C = b.channels, tiles = ceil_div(C, kTile);
  const Index column = blockIdx.x % tiles * kTile, block = blockIdx.x / tiles, first = block * kBlock;
  const Index mine = smaller(column + threadIdx.x % kTile, C - 1);
  D::prepare(b, mine);
  const T* in[] = {static_cast<const T*>(b.x) + column, static_cast<const T*>(b.dy) + column};
  const auto terms = D::template terms<ByChannel<T>>(b, mine);
  const auto add = [&](Index row, Index j, double* sums) { terms.template operator()<T>(in, row * C + j, 0, sums); };
  tile_block<2>(add, first, smaller(b.samples * b.positions, first + kBlock), smaller(kTile, C - column),
                b.sums + block * C + column, blocks * C);
}

template <class D, class T>
void add_blocks(const Norm& a) {
  const BatchNorm b = batchnorm_of(a);
  if (b.channels_last) {
    add_column_blocks<D, T>(b);
  } else {
    add_plane_blocks<D, T>(b);
  }
}

template <class D>
void finish(const Norm& a) {
  const BatchNorm b = batchnorm_of(a);
  const Index first = blockIdx.x * together(b), width = smaller(together(b), b.channels - first), blocks = blocks_of(b);
  for (int s = 0; s < 2; ++s) {
    double* sums = b.channels_last ? b.sums + s * blocks * b.channels + first : b.sums + (2 * first + s) * blocks;
    pair_by_block(sums, a.left, width, a.stride * (b.channels_last ? b.channels : 1));
  }
  __syncthreads();
  if (threadIdx.x < width) D::finish(b, first + threadIdx.x);
}

template <class D>
void prepare(const Norm& a) {
  const BatchNorm b = batchnorm_of(a);
  if (my_thread() < b.channels) D::prepare(b, my_thread());
}

template <class D, class T>
struct Applied {
  const BatchNorm& b;

  template <class P>
  void run(Index i) const {
    const T* in[] = {static_cast<const T*>(b.x), static_cast<const T*>(b.dy)};
    P values[D::kArrays], out;
#pragma unroll
    for (int a = 0; a < D::kArrays; ++a) values[a] = load_pack<P>(in[a] + i);
    const T* from[2] = {values[0].at, values[D::kArrays - 1].at};
    const Index run = b.channels_last ? 1 : b.positions;  // elements of one channel in a row
    Index channel = i / run % b.channels, left = run - i % run;
    auto formula = D::template formula<ByChannel<T>>(b, channel);
#pragma unroll
    for (int e = 0; e < P::kSize; ++e, --left) {
      if (left == 0) {
        channel = channel + 1 < b.channels ? channel + 1 : 0;
        left = run;
        formula = D::template formula<ByChannel<T>>(b, channel);
      }
      out.at[e] = formula.template operator()<T>(from, e, 0);
    }
    store_pack(static_cast<T*>(b.out) + i, out);
  }
};

template <class D, class T>
void apply(const Norm& a) {
  const BatchNorm b = batchnorm_of(a);
  const bool aligned = is_aligned(b.x) && is_aligned(b.out) && (D::kArrays == 1 || is_aligned(b.dy));
  // Backwards: the last that was read for the sums is still in the second cache.
  const Index all = b.samples * b.channels * b.positions, begin = (gridDim.x - 1ll - blockIdx.x) * a.per_block;
  for_each<T>(Applied<D, T>{b}, aligned, begin, smaller(all, begin + a.per_block));
}

struct Running {
  const double *mean64, *var64;
  Index channels, values;
  double momentum;
  Index batches;
  void *mean, *var;
};

template <class T>
void run_update(const Running& a) {
  const Index c = my_thread();
  if (c >= a.channels) return;
  update_running<T>(a.mean64 + c, a.var64 + c, 1, a.values, a.momentum, a.batches, static_cast<T*>(a.mean) + c,
                    static_cast<T*>(a.var) + c);
}

// ---- mean squared error ----

struct Mse {
  const void *Phi, *y, *w;
  const Index* rows;  // of the batch; nullptr: 0, 1, 2, ...
  Index count, p;
  Scale scale;
  void* r;
  double* sums;  // of blocks of rows, p columns each
  const double* squares;
  void* g;
  double* loss;
};

inline Index row_of(const Mse& a, Index i) { return a.rows != nullptr ? a.rows[i] : i; }

// A warp takes a row of Phi.
template <class T>
void residuals(const Mse& a) {
  const Index i = my_warp();
  if (i >= a.count) return;
  const Index row = row_of(a, i);
  const T *x = static_cast<const T*>(a.Phi) + row * a.p, *w = static_cast<const T*>(a.w);
  const auto add = [&](Index j, double* sums) { sums[0] = add_product<T>(sums[0], widen(x[j]), widen(w[j])); };
  Pairing blocks;
  for (Index first = 0; first < a.p; first += kBlock) {
    double sum = 0.0;
    warp_block<1>(add, first, smaller(a.p, first + kBlock), &sum, 0);
    blocks.add(sum);
  }
  if (threadIdx.x % kWarp == 0) {
    static_cast<T*>(a.r)[i] = mse_residual(blocks.total(), static_cast<const T*>(a.y)[row]);
  }
}

template <class T>
void gradient_blocks(const Mse& a) {
  const Index tiles = ceil_div(a.p, kTile), column = blockIdx.x % tiles * kTile, block = blockIdx.x / tiles;
  const T *Phi = static_cast<const T*>(a.Phi) + column, *r = static_cast<const T*>(a.r);
  const auto add = [&](Index i, Index j, double* sums) {
    sums[0] = add_product<T>(sums[0], widen(r[i]), widen(Phi[row_of(a, i) * a.p + j]));
  };
  const Index first = block * kBlock;
  tile_block<1>(add, first, smaller(a.count, first + kBlock), smaller(kTile, a.p - column),
                a.sums + block * a.p + column, 0);
}

template <class T>
void gradient(const Mse& a) {
  const Index j = my_thread();
  if (j < a.p) static_cast<T*>(a.g)[j] = mse_gradient_element<T>(factor_of(a.scale, a.count), a.sums[j]);
}

void loss(const Mse& a) { *a.loss = mse_loss(a.scale, a.count, *a.squares); }

// clang-format off
#define RULE(name, hyper, states, ...) template <class T> using rule_##name = __VA_ARGS__;
FOR_EACH_RULE(RULE)
// clang-format on

}  // namespace
}  // namespace samestep

// What can be launched: lists for kernels.py, which compiles one at a time, and for tests, which want them all and may
// define KERNEL by themselves. To be written in namespace samestep, not in the unnamed one: that would mangle the
// names.
#ifndef KERNEL
#define KERNEL(name, Arguments, ...) \
  extern "C" __global__ void name(const __grid_constant__ Arguments a) { __VA_ARGS__(a); }
#endif

#define STEP_KERNELS_OF(name, suffix, way)                                          \
  KERNEL(step_##name##suffix##_float32, Step, step<rule_##name<float>, float, way>) \
  KERNEL(step_##name##suffix##_float64, Step, step<rule_##name<double>, double, way>)
#define STEP_KERNELS(name, ...) STEP_KERNELS_OF(name, , kPlain)
#define OPTION_KERNELS(name, ...)           \
  STEP_KERNELS_OF(name, _options, kOptions) \
  STEP_KERNELS_OF(name, _decoupled, kDecoupled)

#define WORD_KERNELS() KERNEL(write_words, Words, put_words)

#define SUM_KERNELS_OF(T, type)                                       \
  KERNEL(sum_runs_values_##type, BlockSums, sum_runs<T, Values<T>>)   \
  KERNEL(sum_runs_squares_##type, BlockSums, sum_runs<T, Squares<T>>) \
  KERNEL(sum_columns_values_##type, BlockSums, sum_columns<T, Values<T>>)
#define SUM_KERNELS()             \
  SUM_KERNELS_OF(float, float32)  \
  SUM_KERNELS_OF(double, float64) \
  KERNEL(pair_rows, Pairs, pair_runs)

#define BATCHNORM_KERNELS_OF(T, type, suffix, relu)                                    \
  KERNEL(add_blocks_forward##suffix##_##type, Norm, add_blocks<Forward<T, relu>, T>)   \
  KERNEL(finish_forward##suffix##_##type, Norm, finish<Forward<T, relu>>)              \
  KERNEL(apply_forward##suffix##_##type, Norm, apply<Forward<T, relu>, T>)             \
  KERNEL(add_blocks_backward##suffix##_##type, Norm, add_blocks<Backward<T, relu>, T>) \
  KERNEL(finish_backward##suffix##_##type, Norm, finish<Backward<T, relu>>)            \
  KERNEL(apply_backward##suffix##_##type, Norm, apply<Backward<T, relu>, T>)           \
  KERNEL(prepare_inference##suffix##_##type, Norm, prepare<Inference<T, relu>>)        \
  KERNEL(apply_inference##suffix##_##type, Norm, apply<Inference<T, relu>, T>)
#define BATCHNORM_KERNELS()                                  \
  BATCHNORM_KERNELS_OF(float, float32, , false)              \
  BATCHNORM_KERNELS_OF(float, float32, _relu, true)          \
  BATCHNORM_KERNELS_OF(double, float64, , false)             \
  BATCHNORM_KERNELS_OF(double, float64, _relu, true)         \
  KERNEL(update_running_float32, Running, run_update<float>) \
  KERNEL(update_running_float64, Running, run_update<double>)

#define MSE_KERNELS_OF(T, type)                               \
  KERNEL(mse_residuals_##type, Mse, residuals<T>)             \
  KERNEL(mse_gradient_blocks_##type, Mse, gradient_blocks<T>) \
  KERNEL(mse_gradient_##type, Mse, gradient<T>)
#define MSE_KERNELS()             \
  MSE_KERNELS_OF(float, float32)  \
  MSE_KERNELS_OF(double, float64) \
  KERNEL(mse_loss_float64, Mse, loss)

#define ALL_KERNELS()           \
  FOR_EACH_RULE(STEP_KERNELS)   \
  FOR_EACH_RULE(OPTION_KERNELS) \
  WORD_KERNELS()                \
  SUM_KERNELS()                 \
  BATCHNORM_KERNELS()           \
  MSE_KERNELS()
