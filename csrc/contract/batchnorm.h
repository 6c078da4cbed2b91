// Batch norm with an optional ReLU: training forward, backward, inference. No threads and no memory of its own.
// Its NumPy twin is python/samestep/backends/reference/batchnorm.py; who calls these pieces in which order:
// batchnorm.cpp.
//
// For one channel with the values x_0..x_{M-1} (sample by sample, position by position, whatever the memory layout),
// Ioffe & Szegedy 2015, alg. 1 and section 3; T is the type of the arrays, sums and what follows from them float64:
//   forward    K = x_0 (+0 if not finite),  d = T(x - K),  S1 = csum(d),  S2 = csum(d*d)      shifted: no cancellation
//              mean = K + S1/M,  var = (S2 - S1^2/M)/M,  inv = 1/sqrt(var + eps);   y = gamma*((x - mean)*inv) + beta
//   backward   S1 = csum(dy),  S2 = csum(dy*(x - mean));   dbeta = S1,  dgamma = S2*inv
//              dx = c1*((dy - c2) - (x - mean)*c3),  c1 = gamma*inv,  c2 = S1/M,  c3 = S2*inv^2/M
//   inference  s = gamma/sqrt(running_var + eps);   y = (x - running_mean)*s + beta
// ReLU: a <= 0 becomes +0, so NaN passes; backward recomputes y to know where dy is cut off, nothing is saved for it.
//
// A coefficient comes by channel (one for a whole plane) or by column. X is a scalar or a vector: see vector.h.
#pragma once
#include "contract/fp.h"
#include "contract/sums.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {

template <class T>
struct ByChannel {
  T value;
  template <class X>
  T at(Index) const {
    return value;  // scalar with vector: the compiler spreads it
  }
};
template <class T>
struct ByColumn {
  const T* values;
  template <class X>
  X at(Index j) const {
    return load<X>(values + j);
  }
};

// ---- formulas ----

// Forward: the sums of d and d*d.
template <class T, class C>
struct Deviations {
  static constexpr int kSums = 2;
  C shift;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index j, D* sums) const {
    D d = widen(load<X>(in[0] + i) - shift.template at<X>(j));
    sums[0] = sums[0] + d;
    sums[1] = add_product<T>(sums[1], d, d);
  }
};

template <class T, class C, bool relu>
struct Normalised {
  C mean, inv, gamma, beta;
  template <class X>
  X of_centred(X xc, Index j) const {
    X y = (gamma.template at<X>(j) * (xc * inv.template at<X>(j))) + beta.template at<X>(j);
    if constexpr (relu) y = y <= X{} ? X{} : y;
    return y;
  }
  template <class X>
  X operator()(const T* const* in, Index i, Index j) const {
    return of_centred<X>(load<X>(in[0] + i) - mean.template at<X>(j), j);
  }
};

// dy as it reaches the batch norm: cut off where the ReLU was at zero.
template <class T, class C, bool relu>
struct Gradient {
  Normalised<T, C, false> forward;
  template <class X>
  X at(const T* const* in, Index i, Index j, X xc) const {
    X dy = load<X>(in[1] + i);
    if constexpr (relu) dy = forward.template of_centred<X>(xc, j) <= X{} ? X{} : dy;
    return dy;
  }
};

// Backward: the sums of dy and dy*(x - mean).
template <class T, class C, bool relu>
struct GradientSums {
  static constexpr int kSums = 2;
  Gradient<T, C, relu> gradient;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index j, D* sums) const {
    X xc = load<X>(in[0] + i) - gradient.forward.mean.template at<X>(j);
    D dy = widen(gradient.template at<X>(in, i, j, xc));
    sums[0] = sums[0] + dy;
    sums[1] = add_product<T>(sums[1], dy, widen(xc));
  }
};

template <class T, class C, bool relu>
struct InputGradient {
  Gradient<T, C, relu> gradient;
  C c1, c2, c3;
  template <class X>
  X operator()(const T* const* in, Index i, Index j) const {
    X xc = load<X>(in[0] + i) - gradient.forward.mean.template at<X>(j);
    X dy = gradient.template at<X>(in, i, j, xc);
    return c1.template at<X>(j) * ((dy - c2.template at<X>(j)) - (xc * c3.template at<X>(j)));
  }
};

template <class T, class C, bool relu>
struct Inferred {
  C mean, scale, beta;
  template <class X>
  X operator()(const T* const* in, Index i, Index j) const {
    X y = ((load<X>(in[0] + i) - mean.template at<X>(j)) * scale.template at<X>(j)) + beta.template at<X>(j);
    if constexpr (relu) y = y <= X{} ? X{} : y;
    return y;
  }
};

#ifndef __CUDACC__  // a GPU's loops are in kernels.cu
// ---- loops ----

// Elements before one whose place in memory is a multiple of a vector.
template <class T>
inline Index misaligned(const T* to) {
  return (0 - reinterpret_cast<unsigned long long>(to)) % kVectorBytes / sizeof(T);
}

// out[i..i+count-1] from the formula, columns from j on. `stream`: past the caches, which changes no bit.
template <int kArrays, class T, class Formula>
inline void apply_run(const Formula& formula, const BatchNorm& b, const T* const* in, T* out, Index i, Index j,
                      Index count) {
  using V = typename Vectors<T>::Full;
  constexpr Index kStep = kVectorBytes / sizeof(T);
  const Index end = i + count, ahead = b.ahead;
  auto fetch = [&] {
    for (int a = 0; a < kArrays; ++a) __builtin_prefetch(in[a] + i + ahead, 0, 2);
  };
  if (b.stream) {
    for (Index head = misaligned(out + i); i < end && head > 0; ++i, ++j, --head) {
      out[i] = formula.template operator()<T>(in, i, j);
    }
    for (; i + kStep <= end; i += kStep, j += kStep) {
      if (ahead != 0) fetch();
      store_past_caches(out + i, formula.template operator()<V>(in, i, j));
    }
  } else {
    for (; i + kStep <= end; i += kStep, j += kStep) {
      if (ahead != 0) fetch();
      store(out + i, formula.template operator()<V>(in, i, j));
    }
  }
  for (; i < end; ++i, ++j) out[i] = formula.template operator()<T>(in, i, j);
}

// The block sums of terms first..last of one channel of planes. Where a plane ends amid 32 terms, these are gathered.
template <int kArrays, class T, class Terms>
inline void plane_block(const Terms& terms, const BatchNorm& b, const T* const* in, Index channel, Index first,
                        Index last, double* out, Index stride) {
  const Index S = b.positions, next_plane = b.channels * S;
  Lanes<Terms::kSums> lanes;
  Index sample = first / S, position = first % S;
  T gathered[kArrays][kLanes];
  const T* from[kArrays];
  for (int a = 0; a < kArrays; ++a) from[a] = gathered[a];
  for (Index k = first; k < last;) {
    Index i = sample * next_plane + channel * S + position;
    Index groups = (S - position < last - k ? S - position : last - k) / kLanes;
    if (groups > 0) {
      add_groups(terms, in, i, groups, lanes);
      k += groups * kLanes;
      position += groups * kLanes;
    } else {
      Index count = last - k < kLanes ? last - k : kLanes;
      for (Index got = 0; got < count;) {
        Index run = S - position < count - got ? S - position : count - got;
        Index at = sample * next_plane + channel * S + position;
        for (int a = 0; a < kArrays; ++a) __builtin_memcpy(gathered[a] + got, in[a] + at, run * sizeof(T));
        got += run;
        position += run;
        if (position == S) position = 0, ++sample;
      }
      if (count == kLanes) {
        add_groups(terms, from, 0, 1, lanes);
      } else {
        add_rest(terms, from, 0, count, lanes);
      }
      k += count;
      continue;
    }
    if (position == S) position = 0, ++sample;
  }
  lanes.halve(out, stride);
}

#endif  // __CUDACC__

// ---- the pieces in the table: templates over the direction ----

// Where the coefficient of number q starts.
template <class T>
inline T* coefficient(const BatchNorm& b, int q) {
  return static_cast<T*>(b.coefficients) + q * b.repeats * b.channels;
}

// Puts a channel's coefficient, for columns as often as columns are repeated.
template <class T>
inline void put(const BatchNorm& b, int q, Index channel, T value) {
  for (Index r = 0; r < b.repeats; ++r) coefficient<T>(b, q)[r * b.channels + channel] = value;
}

template <class T>
inline T of_channel(const void* values, Index c) {
  return static_cast<const T*>(values)[c];
}

// By channel c, or by columns from column c on.
template <class T>
inline void take(const BatchNorm& b, int q, Index c, ByChannel<T>& to) {
  to.value = coefficient<T>(b, q)[c];
}
template <class T>
inline void take(const BatchNorm& b, int q, Index c, ByColumn<T>& to) {
  to.values = coefficient<T>(b, q) + c;
}

inline Index blocks_of(const BatchNorm& b) { return (b.samples * b.positions + kBlock - 1) / kBlock; }

// Sum s of a channel, once its blocks are paired.
inline double total(const BatchNorm& b, int s, Index c) {
  return b.sums[b.channels_last ? s * blocks_of(b) * b.channels + c : (2 * c + s) * blocks_of(b)];
}

template <class T, bool relu>
struct Forward {
  static constexpr int kArrays = 1;

  static void prepare(const BatchNorm& b, Index c) {
    T first = static_cast<const T*>(b.x)[b.channels_last ? c : c * b.positions];
    put<T>(b, 0, c, first - first == T(0) ? first : T(0));
    put<T>(b, 2, c, of_channel<T>(b.gamma, c));
    put<T>(b, 3, c, of_channel<T>(b.beta, c));
  }

  static void finish(const BatchNorm& b, Index c) {
    double M = static_cast<double>(b.samples * b.positions);
    double K = coefficient<T>(b, 0)[c];
    double S1 = total(b, 0, c), S2 = total(b, 1, c);
    double mean = K + (S1 / M);
    double var = (S2 - ((S1 * S1) / M)) / M;
    var = var <= 0.0 ? 0.0 : var;
    double inv = 1.0 / root(var + b.eps);
    b.mean64[c] = mean;
    b.var64[c] = var;
    static_cast<T*>(b.mean)[c] = T(mean);
    static_cast<T*>(b.inv)[c] = T(inv);
    put<T>(b, 0, c, T(mean));
    put<T>(b, 1, c, T(inv));
  }

  template <class C>
  static Deviations<T, C> terms(const BatchNorm& b, Index c) {
    Deviations<T, C> terms;
    take<T>(b, 0, c, terms.shift);
    return terms;
  }

  template <class C>
  static Normalised<T, C, relu> formula(const BatchNorm& b, Index c) {
    Normalised<T, C, relu> f;
    take<T>(b, 0, c, f.mean);
    take<T>(b, 1, c, f.inv);
    take<T>(b, 2, c, f.gamma);
    take<T>(b, 3, c, f.beta);
    return f;
  }
};

template <class T, bool relu>
struct Backward {
  static constexpr int kArrays = 2;

  static void prepare(const BatchNorm& b, Index c) {
    put<T>(b, 0, c, of_channel<T>(b.mean, c));
    put<T>(b, 1, c, of_channel<T>(b.inv, c));
    put<T>(b, 2, c, of_channel<T>(b.gamma, c));
    put<T>(b, 3, c, of_channel<T>(b.beta, c));
  }

  static void finish(const BatchNorm& b, Index c) {
    double M = static_cast<double>(b.samples * b.positions);
    double gamma = of_channel<T>(b.gamma, c), inv = of_channel<T>(b.inv, c);
    double S1 = total(b, 0, c), S2 = total(b, 1, c);
    static_cast<T*>(b.dbeta)[c] = T(S1);
    static_cast<T*>(b.dgamma)[c] = T(S2 * inv);
    put<T>(b, 4, c, T(gamma * inv));
    put<T>(b, 5, c, T(S1 / M));
    put<T>(b, 6, c, T(((S2 * inv) * inv) / M));
  }

  template <class C>
  static Gradient<T, C, relu> gradient(const BatchNorm& b, Index c) {
    Gradient<T, C, relu> g;
    take<T>(b, 0, c, g.forward.mean);
    take<T>(b, 1, c, g.forward.inv);
    take<T>(b, 2, c, g.forward.gamma);
    take<T>(b, 3, c, g.forward.beta);
    return g;
  }

  template <class C>
  static GradientSums<T, C, relu> terms(const BatchNorm& b, Index c) {
    return {gradient<C>(b, c)};
  }

  template <class C>
  static InputGradient<T, C, relu> formula(const BatchNorm& b, Index c) {
    InputGradient<T, C, relu> f;
    f.gradient = gradient<C>(b, c);
    take<T>(b, 4, c, f.c1);
    take<T>(b, 5, c, f.c2);
    take<T>(b, 6, c, f.c3);
    return f;
  }
};

template <class T, bool relu>
struct Inference {
  static constexpr int kArrays = 1;

  static void prepare(const BatchNorm& b, Index c) {
    double gamma = of_channel<T>(b.gamma, c), var = of_channel<T>(b.var, c);
    put<T>(b, 0, c, of_channel<T>(b.mean, c));
    put<T>(b, 1, c, T(gamma / root(var + b.eps)));
    put<T>(b, 2, c, of_channel<T>(b.beta, c));
  }

  template <class C>
  static Inferred<T, C, relu> formula(const BatchNorm& b, Index c) {
    Inferred<T, C, relu> f;
    take<T>(b, 0, c, f.mean);
    take<T>(b, 1, c, f.scale);
    take<T>(b, 2, c, f.beta);
    return f;
  }
};

#ifndef __CUDACC__
template <class Direction>
void prepare(const BatchNorm& b, Index begin, Index end) {
  for (Index c = begin; c < end; ++c) Direction::prepare(b, c);
}

template <class Direction, class T>
void add_blocks(const BatchNorm& b, Index begin, Index end, Index first_block, Index last_block) {
  const T* in[] = {static_cast<const T*>(b.x), static_cast<const T*>(b.dy)};
  const Index M = b.samples * b.positions, blocks = blocks_of(b), C = b.channels;
  if (b.channels_last) {
    auto terms = Direction::template terms<ByColumn<T>>(b, begin);
    for (Index block = first_block; block < last_block; ++block) {
      Index row = block * kBlock, rows = M - row < kBlock ? M - row : kBlock;
      column_block(terms, in, row * C + begin, rows, end - begin, C, b.sums + block * C + begin, blocks * C);
    }
  } else {
    for (Index c = begin; c < end; ++c) {
      auto terms = Direction::template terms<ByChannel<T>>(b, c);
      for (Index block = first_block; block < last_block; ++block) {
        Index first = block * kBlock, last = M - first < kBlock ? M : first + kBlock;
        plane_block<Direction::kArrays>(terms, b, in, c, first, last, b.sums + 2 * c * blocks + block, blocks);
      }
    }
  }
}

template <class Direction>
void finish(const BatchNorm& b, Index begin, Index end) {
  const Index blocks = blocks_of(b), C = b.channels;
  for (int s = 0; s < 2; ++s) {
    if (b.channels_last) {
      pair(b.sums + s * blocks * C + begin, blocks, end - begin, C);
    } else {
      for (Index c = begin; c < end; ++c) pair(b.sums + (2 * c + s) * blocks, blocks, 1, 1);
    }
  }
  for (Index c = begin; c < end; ++c) Direction::finish(b, c);
}

// Elements begin..end-1 in the order of memory; by columns, begin is that of a row.
template <class Direction, class T>
void apply(const BatchNorm& b, Index begin, Index end) {
  const T* in[] = {static_cast<const T*>(b.x), static_cast<const T*>(b.dy)};
  T* out = static_cast<T*>(b.out);
  if (b.channels_last) {
    // As many rows at a time as fill whole vectors, and some hundred elements. Columns repeat at least twice as often,
    // so that a run may start where memory is aligned and go on into the next row's columns.
    Index rows = 1;
    while (2 * rows < b.repeats && (rows * b.channels < 512 || rows * b.channels * sizeof(T) % kVectorBytes != 0)) {
      rows *= 2;
    }
    const Index width = rows * b.channels, left = end - begin;
    Index head = misaligned(out + begin);
    head = head < b.channels && head < left ? head : 0;
    auto formula = Direction::template formula<ByColumn<T>>(b, 0);
    apply_run<Direction::kArrays>(formula, b, in, out, begin, 0, head);
    for (Index i = begin + head; i < end; i += width) {
      apply_run<Direction::kArrays>(formula, b, in, out, i, head, end - i < width ? end - i : width);
    }
  } else {
    Index plane = begin / b.positions, c = plane % b.channels, plane_end = (plane + 1) * b.positions;
    for (Index i = begin; i < end; plane_end += b.positions, c = c + 1 < b.channels ? c + 1 : 0) {
      Index run_end = plane_end < end ? plane_end : end;
      auto formula = Direction::template formula<ByChannel<T>>(b, c);
      apply_run<Direction::kArrays>(formula, b, in, out, i, 0, run_end - i);
      i = run_end;
    }
  }
  if (b.stream) finish_stores();
}

#endif  // __CUDACC__

// Running statistics: p of the new, 1 - p of the old; the variance unbiased, as PyTorch keeps it.
// batches > 0: p = 1/batches, the average over all batches so far.
template <class T>
void update_running(const double* mean64, const double* var64, Index channels, Index values, double momentum,
                    Index batches, void* mean, void* var) {
  double M = static_cast<double>(values), p = batches > 0 ? 1.0 / static_cast<double>(batches) : momentum;
  T *rm = static_cast<T*>(mean), *rv = static_cast<T*>(var);
  for (Index c = 0; c < channels; ++c) {
    rm[c] = T(((1.0 - p) * rm[c]) + (p * mean64[c]));
    rv[c] = T(((1.0 - p) * rv[c]) + (p * (var64[c] * (M / (M - 1.0)))));
  }
}

}  // namespace
}  // namespace samestep
