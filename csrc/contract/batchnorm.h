// Batch norm with an optional ReLU: training forward, backward, inference. The formulas; no loops over memory, no
// threads. The loops of a processor are in isa/batchnorm.h, those of a GPU in gpu/batchnorm.cuh; run/batchnorm.cpp and
// backends/gpu/batchnorm.py call the pieces in order. The NumPy twin is backends/reference/batchnorm.py.
//
// x is (N, C, S): N samples of C channels of S positions. In memory it lies so ("planes"), or as (N, S, C)
// ("channels last"); either way one channel has the M = N*S values x_0 .. x_{M-1}, sample by sample and position by
// position. Per channel (Ioffe & Szegedy 2015, alg. 1 and section 3; the shift: Chan, Golub & LeVeque 1983):
//
//   forward    K = x_0 (+0 if not finite),  d = T(x - K),  S1 = csum(d),  S2 = csum(d*d)
//              mean = K + S1/M,  var = (S2 - S1^2/M)/M,  inv = 1/sqrt(var + eps)
//              y = gamma*((x - mean)*inv) + beta
//   backward   S1 = csum(dy),  S2 = csum(dy*(x - mean));   dbeta = S1,  dgamma = S2*inv
//              dx = c1*((dy - c2) - (x - mean)*c3),  c1 = gamma*inv,  c2 = S1/M,  c3 = S2*inv^2/M
//   inference  s = gamma/sqrt(running_var + eps);   y = (x - running_mean)*s + beta
//   ReLU       a <= 0 becomes +0, so NaN passes; backward recomputes y to know where dy is cut off: nothing is saved
//
// T is the type of the arrays; sums, and what follows from them for a channel, are float64 and rounded once to T.
#pragma once
#include "contract/fp.h"
#include "contract/sums.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {

// ---- a channel's coefficients ----

// Rows of BatchNorm::coefficients (kCoefficients, repeats, C), all of type T.
enum Coefficient {
  kMean,  // the shift K while forward sums, then the mean
  kInv,   // 1/sqrt(var + eps)
  kGamma,
  kBeta,
  kC1,  // of dx
  kC2,
  kC3,
  kScale = kInv  // gamma/sqrt(running_var + eps), in inference, which needs no inv
};

// One channel's coefficient for a whole plane, or the coefficients of the columns from one channel on. Formulas read
// them with at<X>(coefficient, j); X is T or a vector of T, and j the column, which a plane does not have.
template <class T>
struct ByChannel {
  using Value = T;
  T value;
  static ByChannel of(const T* row, Index channel) { return {row[channel]}; }
};
template <class T>
struct ByColumn {
  using Value = T;
  const T* values;
  static ByColumn of(const T* row, Index channel) { return {row + channel}; }
};

template <class X, class T>
inline T at(const ByChannel<T>& coefficient, Index) {
  return coefficient.value;  // a scalar in vector arithmetic: the compiler broadcasts it
}
template <class X, class T>
inline X at(const ByColumn<T>& coefficient, Index j) {
  return load<X>(coefficient.values + j);
}

template <class T>
inline T* coefficient_row(const BatchNorm& b, Coefficient which) {
  return static_cast<T*>(b.coefficients) + which * b.repeats * b.channels;
}

// C: ByChannel<T>, or ByColumn<T> from column `channel` on.
template <class C>
inline C load_coefficient(const BatchNorm& b, Coefficient which, Index channel) {
  return C::of(coefficient_row<typename C::Value>(b, which), channel);
}

template <class T>
inline void store_coefficient(const BatchNorm& b, Coefficient which, Index channel, T value) {
  coefficient_row<T>(b, which)[channel] = value;
}

// values (C).
template <class T>
inline T value_of(const void* values, Index channel) {
  return static_cast<const T*>(values)[channel];
}

// ---- formulas of one element ----
//
// in[0] = x and in[1] = dy, both (N, C, S) or (N, S, C); element i lies at the same place in each. C: ByChannel<T> or
// ByColumn<T>, X: T or a vector, so that one formula serves the body of a loop and its tail.

// S1 = csum(d),  S2 = csum(d*d),  d = T(x - K).  d is rounded to T before it is widened: the contract.
template <class T, class C>
struct Deviations {
  static constexpr int kArrays = 1, kSums = 2;
  C shift;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index j, D* sums) const {
    D d = widen(load<X>(in[0] + i) - at<X>(shift, j));
    sums[0] = sums[0] + d;
    sums[1] = add_product<T>(sums[1], d, d);
  }
};

// y = gamma*((x - mean)*inv) + beta
template <class T, class C, bool relu>
struct Normalised {
  C mean, inv, gamma, beta;
  template <class X>
  X of_centred(X xc, Index j) const {  // xc = x - mean
    X y = (at<X>(gamma, j) * (xc * at<X>(inv, j))) + at<X>(beta, j);
    if constexpr (relu) y = y <= X{} ? X{} : y;
    return y;
  }
  template <class X>
  X operator()(const T* const* in, Index i, Index j) const {
    return of_centred<X>(load<X>(in[0] + i) - at<X>(mean, j), j);
  }
};

// dy as it reaches the batch norm: +0 where the ReLU cut y off.
template <class T, class C, bool relu>
struct OutputGradient {
  Normalised<T, C, false> forward;
  template <class X>
  X of_centred(const T* const* in, Index i, Index j, X xc) const {
    X dy = load<X>(in[1] + i);
    if constexpr (relu) dy = forward.template of_centred<X>(xc, j) <= X{} ? X{} : dy;
    return dy;
  }
};

// S1 = csum(dy),  S2 = csum(dy*(x - mean))
template <class T, class C, bool relu>
struct GradientSums {
  static constexpr int kArrays = 2, kSums = 2;
  OutputGradient<T, C, relu> gradient;
  template <class X, class D>
  void operator()(const T* const* in, Index i, Index j, D* sums) const {
    X xc = load<X>(in[0] + i) - at<X>(gradient.forward.mean, j);
    D dy = widen(gradient.template of_centred<X>(in, i, j, xc));
    sums[0] = sums[0] + dy;
    sums[1] = add_product<T>(sums[1], dy, widen(xc));
  }
};

// dx = c1*((dy - c2) - (x - mean)*c3)
template <class T, class C, bool relu>
struct InputGradient {
  OutputGradient<T, C, relu> gradient;
  C c1, c2, c3;
  template <class X>
  X operator()(const T* const* in, Index i, Index j) const {
    X xc = load<X>(in[0] + i) - at<X>(gradient.forward.mean, j);
    X dy = gradient.template of_centred<X>(in, i, j, xc);
    return at<X>(c1, j) * ((dy - at<X>(c2, j)) - (xc * at<X>(c3, j)));
  }
};

// y = (x - running_mean)*s + beta
template <class T, class C, bool relu>
struct Inferred {
  C mean, scale, beta;
  template <class X>
  X operator()(const T* const* in, Index i, Index j) const {
    X y = ((load<X>(in[0] + i) - at<X>(mean, j)) * at<X>(scale, j)) + at<X>(beta, j);
    if constexpr (relu) y = y <= X{} ? X{} : y;
    return y;
  }
};

// ---- directions: what happens once per channel, and which formulas follow ----
//
// prepare(channel), then every block of terms() is summed, then finish(channel), then formula() is applied to every
// element. Inference sums nothing: prepare, then formula.

// S1 (s = 0) or S2 (s = 1) of a channel, after its block sums were paired: pair() leaves the total in the first.
// sums: (2, blocks, C) channels last, (C, 2, blocks) in planes.
inline double total(const BatchNorm& b, int s, Index channel) {
  return b.sums[b.channels_last ? s * b.blocks * b.channels + channel : (2 * channel + s) * b.blocks];
}

template <class T, bool relu>
struct Forward {
  static constexpr int kArrays = 1;  // of in[] that are read

  // K = x_0, near the mean, so that S2 - S1^2/M does not cancel. inf or NaN would spoil every d: +0 then.
  static void prepare(const BatchNorm& b, Index c) {
    T first = b.shift ? value_of<T>(b.shift, c) : static_cast<const T*>(b.x)[b.channels_last ? c : c * b.positions];
    store_coefficient<T>(b, kMean, c, first - first == T(0) ? first : T(0));
    store_coefficient<T>(b, kGamma, c, value_of<T>(b.gamma, c));
    store_coefficient<T>(b, kBeta, c, value_of<T>(b.beta, c));
  }

  template <class C>
  static Deviations<T, C> terms(const BatchNorm& b, Index c) {
    return {load_coefficient<C>(b, kMean, c)};
  }

  static void finish(const BatchNorm& b, Index c) {
    double M = static_cast<double>(b.values);
    double K = coefficient_row<T>(b, kMean)[c];
    double S1 = total(b, 0, c), S2 = total(b, 1, c);
    // mean = K + S1/M
    double mean = K + (S1 / M);
    // var = (S2 - S1^2/M)/M; rounding can leave it below zero
    double var = (S2 - ((S1 * S1) / M)) / M;
    var = var <= 0.0 ? 0.0 : var;
    // inv = 1/sqrt(var + eps)
    double inv = 1.0 / root(var + b.eps);
    b.mean64[c] = mean;
    b.var64[c] = var;
    static_cast<T*>(b.mean)[c] = T(mean);
    static_cast<T*>(b.inv)[c] = T(inv);
    store_coefficient<T>(b, kMean, c, T(mean));
    store_coefficient<T>(b, kInv, c, T(inv));
  }

  template <class C>
  static Normalised<T, C, relu> formula(const BatchNorm& b, Index c) {
    return {load_coefficient<C>(b, kMean, c), load_coefficient<C>(b, kInv, c), load_coefficient<C>(b, kGamma, c),
            load_coefficient<C>(b, kBeta, c)};
  }
};

template <class T, bool relu>
struct Backward {
  static constexpr int kArrays = 2;

  // mean and inv are those that forward rounded to T and returned, not the float64 ones: what y was computed with.
  static void prepare(const BatchNorm& b, Index c) {
    store_coefficient<T>(b, kMean, c, value_of<T>(b.mean, c));
    store_coefficient<T>(b, kInv, c, value_of<T>(b.inv, c));
    store_coefficient<T>(b, kGamma, c, value_of<T>(b.gamma, c));
    store_coefficient<T>(b, kBeta, c, value_of<T>(b.beta, c));
  }

  template <class C>
  static OutputGradient<T, C, relu> gradient(const BatchNorm& b, Index c) {
    return {Forward<T, false>::template formula<C>(b, c)};
  }

  template <class C>
  static GradientSums<T, C, relu> terms(const BatchNorm& b, Index c) {
    return {gradient<C>(b, c)};
  }

  static void finish(const BatchNorm& b, Index c) {
    double M = static_cast<double>(b.values);
    double gamma = value_of<T>(b.gamma, c), inv = value_of<T>(b.inv, c);
    double S1 = total(b, 0, c), S2 = total(b, 1, c);
    // dbeta = S1,  dgamma = S2*inv
    static_cast<T*>(b.dbeta)[c] = T(S1);
    static_cast<T*>(b.dgamma)[c] = T(S2 * inv);
    // c1 = gamma*inv,  c2 = S1/M,  c3 = S2*inv^2/M
    store_coefficient<T>(b, kC1, c, T(gamma * inv));
    store_coefficient<T>(b, kC2, c, T(S1 / M));
    store_coefficient<T>(b, kC3, c, T(((S2 * inv) * inv) / M));
  }

  template <class C>
  static InputGradient<T, C, relu> formula(const BatchNorm& b, Index c) {
    return {gradient<C>(b, c), load_coefficient<C>(b, kC1, c), load_coefficient<C>(b, kC2, c),
            load_coefficient<C>(b, kC3, c)};
  }
};

template <class T, bool relu>
struct Inference {
  static constexpr int kArrays = 1;

  // s = gamma/sqrt(running_var + eps), in float64
  static void prepare(const BatchNorm& b, Index c) {
    double gamma = value_of<T>(b.gamma, c), var = value_of<T>(b.var, c);
    store_coefficient<T>(b, kMean, c, value_of<T>(b.mean, c));
    store_coefficient<T>(b, kScale, c, T(gamma / root(var + b.eps)));
    store_coefficient<T>(b, kBeta, c, value_of<T>(b.beta, c));
  }

  template <class C>
  static Inferred<T, C, relu> formula(const BatchNorm& b, Index c) {
    return {load_coefficient<C>(b, kMean, c), load_coefficient<C>(b, kScale, c), load_coefficient<C>(b, kBeta, c)};
  }
};

// ---- running statistics ----

// mean (C) = (1 - p)*mean + p*mean64,  var (C) = (1 - p)*var + p*(var64*(M/(M - 1))): the unbiased variance, as PyTorch
// keeps it. M = `values` of each channel. p = momentum; batches > 0: p = 1/batches, the average over all so far.
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
