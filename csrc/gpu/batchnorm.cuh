// Batch norm's loops on a GPU. The formulas, and what (N, C, S) means, are in contract/batchnorm.h;
// backends/gpu/batchnorm.py launches add_blocks, pair_rows, finish and apply, or whole_channel where a channel fits the
// shared memory of some blocks of threads, or prepare and apply.
#pragma once
#include "contract/batchnorm.h"
#include "contract/types.h"
#include "gpu/sums.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

// BatchNorm's fields (contract/types.h), each of 8 bytes, and how the work is cut.
struct BatchNormArguments {
  Index samples, channels, positions, channels_last;  // N, C, S
  double eps;
  const void *x, *dy, *gamma, *beta, *var;
  void *mean, *inv;
  double *mean64, *var64;
  void *dgamma, *dbeta, *out;
  void* coefficients;  // (kCoefficients, C)
  double* sums;        // block sums: (2, blocks, C) channels last, (C, 2, blocks) in planes
  Index left, stride;  // for finish(): block sums that pair_rows left to be paired, and how many rows lie between them
  Index per_block;     // for apply(): elements of a block of threads
  Index part;          // for whole_channel(): blocks of terms of a block of threads
  unsigned* counters;  // likewise, of teams
};

inline BatchNorm batchnorm_of(const BatchNormArguments& a) {
  BatchNorm b{};
  b.samples = a.samples, b.channels = a.channels, b.positions = a.positions, b.channels_last = a.channels_last != 0;
  b.eps = a.eps, b.x = a.x, b.dy = a.dy, b.gamma = a.gamma, b.beta = a.beta, b.var = a.var;
  b.mean = a.mean, b.inv = a.inv, b.mean64 = a.mean64, b.var64 = a.var64;
  b.dgamma = a.dgamma, b.dbeta = a.dbeta, b.out = a.out;
  b.values = b.samples * b.positions, b.blocks = ceil_div(b.values, kSumBlock);
  b.coefficients = a.coefficients, b.repeats = 1, b.sums = a.sums;
  return b;
}

// Channels that a block of threads finishes: one in planes, whose block sums lie in a row, or kTile columns.
inline Index channels_per_block(const BatchNorm& b) { return b.channels_last ? kTile : 1; }

// In planes: where terms k, k + step, k + 2*step, ... of channel c lie: term k is at sample k/S, position k%S. Divided
// once, not per term.
class PlaneTerms {
 public:
  PlaneTerms(const BatchNorm& b, Index c, Index k, Index step)
      : S_(b.positions),
        apart_(b.channels * b.positions),
        position_(k % S_),
        base_(k / S_ * apart_ + c * S_),
        positions_on_(step % S_),
        base_on_(step / S_ * apart_) {}
  Index place() const { return base_ + position_; }
  void advance() {
    base_ += base_on_;
    position_ += positions_on_;
    if (position_ >= S_) position_ -= S_, base_ += apart_;
  }

 private:
  const Index S_, apart_;  // elements of a channel in a row; from one row of the channel to its next
  Index position_, base_;
  const Index positions_on_, base_on_;
};

// In planes: a warp sums one block of one channel.
template <class D, class T>
void add_plane_blocks(const BatchNorm& b) {
  const Index blocks = b.blocks, unit = warp_number();
  if (unit >= b.channels * blocks) return;
  const Index c = unit / blocks, block = unit % blocks, first = block * kSumBlock,
              last = smaller(b.values, first + kSumBlock);
  D::prepare(b, c);
  const T* in[] = {static_cast<const T*>(b.x), static_cast<const T*>(b.dy)};
  const auto terms = D::template terms<ByChannel<T>>(b, c);
  PlaneTerms place(b, c, first + threadIdx.x % kWarp, kWarp);
  const auto add = [&](Index, double* sums) {
    terms.template operator()<T>(in, place.place(), 0, sums);
    place.advance();
  };
  warp_block<2>(add, first, last, b.sums + 2 * c * blocks + block, blocks);
}

// Channels last: a block of threads sums one block of terms of kTile channels. Threads past the last channel read that
// one's coefficients and add nothing.
template <class D, class T>
void add_column_blocks(const BatchNorm& b) {
  const Index blocks = b.blocks, C = b.channels, tiles = ceil_div(C, kTile);
  const Index column = blockIdx.x % tiles * kTile, block = blockIdx.x / tiles, first = block * kSumBlock;
  const Index channel = smaller(column + threadIdx.x % kTile, C - 1);
  D::prepare(b, channel);
  const T* in[] = {static_cast<const T*>(b.x) + column, static_cast<const T*>(b.dy) + column};
  const auto terms = D::template terms<ByChannel<T>>(b, channel);
  const auto add = [&](Index row, Index j, double* sums) { terms.template operator()<T>(in, row * C + j, 0, sums); };
  tile_block<2>(add, first, smaller(b.samples * b.positions, first + kSumBlock), smaller(kTile, C - column),
                b.sums + block * C + column, blocks * C);
}

template <class D, class T>
void add_blocks(const BatchNormArguments& a) {
  const BatchNorm b = batchnorm_of(a);
  if (b.channels_last) {
    add_column_blocks<D, T>(b);
  } else {
    add_plane_blocks<D, T>(b);
  }
}

// Pairs what is left of S1 and S2, then computes the channels' coefficients.
template <class D>
void finish(const BatchNormArguments& a) {
  const BatchNorm b = batchnorm_of(a);
  const Index first = blockIdx.x * channels_per_block(b), width = smaller(channels_per_block(b), b.channels - first),
              blocks = b.blocks;
  for (int s = 0; s < 2; ++s) {
    double* sums = b.channels_last ? b.sums + s * blocks * b.channels + first : b.sums + (2 * first + s) * blocks;
    pair_by_block(sums, a.left, width, a.stride * (b.channels_last ? b.channels : 1));
  }
  __syncthreads();
  if (threadIdx.x < width) D::finish(b, first + threadIdx.x);
}

// In planes, where a channel fits the shared memory of a team of blocks of threads: each member holds `part` blocks of
// terms, the last one fewer, and reads them of x, and of dy, once. The last member to arrive pairs the sums of all.
// launched_memory is (blocks, 2) block sums of the channel, then the member's (kArrays, size_) values.
template <class D, class T>
class WholeChannel {
 public:
  WholeChannel(const BatchNorm& b, const Team& team, Index part)
      : b_(b),
        team_(team),
        c_(team.number()),
        first_(team.member() * part * kSumBlock),
        size_(static_cast<int>(smaller(b.values - first_, part * kSumBlock))),
        sums_(reinterpret_cast<double*>(launched_memory)),
        x_(reinterpret_cast<T*>(sums_ + 2 * b.blocks)) {}

  // P: a pack that lies within a row.
  template <class P>
  void run() const {
    if (threadIdx.x == 0) D::prepare(b_, c_);  // all members store the same
    read<P>();
    __syncthreads();
    add_blocks();
    const bool is_last = team_.arrives_last();
    if (is_last) pair();
    if (threadIdx.x == 0) {
      if (is_last) {
        finish();
        team_.release();
      } else {
        team_.wait();
      }
    }
    __syncthreads();
    apply<P>();
  }

 private:
  // A thread loads several packs before it stores them: to wait for one after the other would leave memory idle.
  template <class P>
  void read() const {
    constexpr int kPacks = 4 / D::kArrays;
    const T* const in[] = {static_cast<const T*>(b_.x), static_cast<const T*>(b_.dy)};
    const int first = P::kSize * threadIdx.x, step = P::kSize * blockDim.x;
    PlaneTerms place(b_, c_, first_ + first, step);
#pragma unroll 1  // else loads of one round follow stores of another
    for (int k = first; k < size_; k += kPacks * step) {
      P values[kPacks][D::kArrays] = {};
#pragma unroll
      for (int i = 0; i < kPacks; ++i, place.advance()) {
        if (k + i * step >= size_) continue;
#pragma unroll
        for (int a = 0; a < D::kArrays; ++a) values[i][a] = load_pack<P>(in[a] + place.place());
      }
#pragma unroll
      for (int i = 0; i < kPacks; ++i) {
        if (k + i * step >= size_) continue;
#pragma unroll
        for (int a = 0; a < D::kArrays; ++a) store_pack(x_ + a * size_ + k + i * step, values[i][a]);
      }
    }
  }

  template <class P>
  void apply() const {
    const auto formula = D::template formula<ByChannel<T>>(b_, c_);
    const int first = P::kSize * threadIdx.x, step = P::kSize * blockDim.x;
    PlaneTerms place(b_, c_, first_ + first, step);
#pragma unroll 1  // unrolled, NVRTC 13 stores packs value by value
    for (int k = first; k < size_; k += step, place.advance()) {
      P values[D::kArrays], out;
#pragma unroll
      for (int a = 0; a < D::kArrays; ++a) values[a] = load_pack<P>(x_ + a * size_ + k);
      const T* const from[] = {values[0].at, values[D::kArrays - 1].at};
#pragma unroll
      for (int e = 0; e < P::kSize; ++e) out.at[e] = formula.template operator()<T>(from, e, 0);
      store_pack(static_cast<T*>(b_.out) + place.place(), out);
    }
  }

  // The block sums of the channel, (blocks, 2), where all members find them.
  double* all_sums() const { return team_.size() == 1 ? sums_ : b_.sums + 2 * c_ * b_.blocks; }

  void add_blocks() const {
    const T* const in[] = {x_, x_ + (D::kArrays - 1) * size_};
    const auto terms = D::template terms<ByChannel<T>>(b_, c_);
    const auto add = [&](Index k, double* sums) { terms.template operator()<T>(in, k, 0, sums); };
    double* const out = all_sums() + 2 * (first_ / kSumBlock);
    for (Index first = threadIdx.x / kWarp * kSumBlock; first < size_; first += blockDim.x / kWarp * kSumBlock) {
      warp_block<2>(add, first, smaller(size_, first + kSumBlock), out + 2 * (first / kSumBlock), 1);
    }
  }

  void pair() const {
    if (team_.size() > 1) {
      const double* const all = all_sums();
      for (Index i = threadIdx.x; i < 2 * b_.blocks; i += blockDim.x) sums_[i] = all[i];
      __syncthreads();
    }
    pair_by_block(sums_, b_.blocks, 2, 2);
  }

  void finish() const {
    for (int s = 0; s < 2; ++s) b_.sums[(2 * c_ + s) * b_.blocks] = sums_[s];
    D::finish(b_, c_);
  }

  const BatchNorm& b_;
  const Team& team_;
  const Index c_, first_;  // the channel, the member's first term
  const int size_;         // the member's terms; of 32 bits, as registers are scarce
  double* const sums_;
  T* const x_;
};

template <class D, class T>
void whole_channel(const BatchNormArguments& a) {
  const BatchNorm b = batchnorm_of(a);
  const bool aligned = is_aligned(b.x) && is_aligned(b.out) && (D::kArrays == 1 || is_aligned(b.dy));
  const Team team(a.counters, ceil_div(b.blocks, a.part));
  const WholeChannel<D, T> channel(b, team, a.part);
  if (aligned && b.positions % Full<T>::kSize == 0) {
    channel.template run<Full<T>>();
  } else {
    channel.template run<Single<T>>();
  }
}

template <class D>
void prepare(const BatchNormArguments& a) {
  const BatchNorm b = batchnorm_of(a);
  if (thread_number() < b.channels) D::prepare(b, thread_number());
}

// out_i = formula(x_i, dy_i) with the coefficients of the channel that element i belongs to; the body of for_each().
template <class D, class T>
struct ApplyElements {
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
void apply(const BatchNormArguments& a) {
  const BatchNorm b = batchnorm_of(a);
  const bool aligned = is_aligned(b.x) && is_aligned(b.out) && (D::kArrays == 1 || is_aligned(b.dy));
  // From the end: what the sums read last is still in the second-level cache.
  const Index all = b.samples * b.channels * b.positions, begin = (gridDim.x - 1ll - blockIdx.x) * a.per_block;
  for_each<T>(ApplyElements<D, T>{b}, aligned, begin, smaller(all, begin + a.per_block));
}

struct RunningArguments {
  const double *mean64, *var64;  // (channels)
  Index channels, values;
  double momentum;
  Index batches;
  void *mean, *var;  // (channels)
};

// A thread updates one channel.
template <class T>
void update_running_of(const RunningArguments& a) {
  const Index c = thread_number();
  if (c >= a.channels) return;
  update_running<T>(a.mean64 + c, a.var64 + c, 1, a.values, a.momentum, a.batches, static_cast<T*>(a.mean) + c,
                    static_cast<T*>(a.var) + c);
}

}  // namespace
}  // namespace samestep
