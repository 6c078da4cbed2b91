// What a step does besides the rule, if the user asks for it: to the gradient before, to parameter and states after.
// The loops run over a chunk that stays in the nearest cache, so an option costs no further pass over memory, and rules
// need not know of options. The NumPy twin is python/samestep/backends/reference/options.py.
#pragma once
#include "contract/fp.h"
#include "contract/types.h"

namespace samestep {

// What a gradient goes through before the rule. Scale 1 and clip_value infinity change no bit.
struct Preparation {
  double scale, clip_value;
  double weight_decay;  // coupled
};

namespace {

// g = scale*g;  g = clip(g);  g = g + wd*w.   Scale -1 maximizes; scale 1 and clip infinity change no bit.
template <class T>
struct PreparedGradient {
  T scale, clip, wd;
  explicit HD PreparedGradient(const Preparation& p)
      : scale(T(p.scale)), clip(T(p.clip_value)), wd(T(p.weight_decay)) {}
  HD T operator()(T w, T g, bool decays) const {
    T x = scale * g;
    x = x > clip ? clip : x;
    x = x < -clip ? -clip : x;
    return decays ? x + (wd * w) : x;
  }
};

// Subnormals of float32, whatever the type, become +0: below 2^-126 a product costs some hundred times as much.
template <class T>
inline HD T flushed(T s) {
  const T least = T(1.17549435082228750796873653722224568e-38);  // 2^-126
  return s < least && s > -least ? T(0) : s;
}

// The running average of the parameters.  e = d*e + (1 - d)*w
template <class T>
struct Average {
  T d, o;
  explicit HD Average(double decay) : d(T(decay)), o(T(1.0 - decay)) {}
  HD T operator()(T e, T w) const { return (d * e) + (o * w); }
};

// x - x is 0 of a finite x, else NaN.
template <class T>
inline HD bool is_finite(T x) {
  return x - x == T(0);
}

inline HD double decoupled_decay(double lr, double weight_decay) { return lr * weight_decay; }

// Gradients whose norm is above clip_norm are shortened to it.
inline HD double clip_scale(double scale, double norm, double clip_norm) {
  return norm > clip_norm ? scale * (clip_norm / norm) : scale;
}

#ifndef __CUDACC__  // a GPU's loops are in gpu/step.cuh
template <class T, bool decays>
void prepare_gradient(const Preparation& p, const void* weights, const void* gradient, Index n, void* out) {
  const PreparedGradient<T> prepared(p);
  const T* __restrict w = static_cast<const T*>(weights);
  const T* __restrict g = static_cast<const T*>(gradient);
  T* __restrict to = static_cast<T*>(out);
  for (Index i = 0; i < n; ++i) to[i] = prepared(w[i], g[i], decays);
}

template <class T>
void average(double decay, const void* weights, Index n, void* ema) {
  const Average<T> averaged(decay);
  const T* __restrict w = static_cast<const T*>(weights);
  T* __restrict e = static_cast<T*>(ema);
  for (Index i = 0; i < n; ++i) e[i] = averaged(e[i], w[i]);
}

template <class T>
void flush_subnormals(Index n, void* state) {
  T* s = static_cast<T*>(state);
  for (Index i = 0; i < n; ++i) s[i] = flushed(s[i]);
}

template <class T>
bool all_finite(const void* gradient, Index n) {
  const T* g = static_cast<const T*>(gradient);
  int bad = 0;
  for (Index i = 0; i < n; ++i) bad |= !is_finite(g[i]);
  return bad == 0;
}

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
