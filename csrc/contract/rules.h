// Every update rule, once: coefficients from hyper-parameters and step number, then the formula for one element.
// No loops, no threads, no instruction sets. The order of operations is part of the interface: it fixes the bits.
//
// A rule is a struct of coefficients with
//   at(t, hyper-parameters...)   forms them in float64 and rounds each once to T; t = 1, 2, ... counts the steps
//   operator()(w, g, states...)  updates parameter w and the states in place from gradient g; w is a T or a Decayed<T>
// and a row of FOR_EACH_RULE at the end of this file. Its NumPy twin, under the same name and in the same order, is in
// python/samestep/backends/reference/rules.py.
//
// Parentheses stand around each operation whose result another one takes, also where C++ needs none: they say where
// a rounding happens.
#pragma once
#include "contract/fp.h"

namespace samestep {
namespace {  // internal linkage: code built for AVX-512 must never win at link time

// base^t by right-to-left binary powering. Not libm's pow: its last bit differs between systems.
inline HD double power(double base, long long t) {
  double result = 1.0;
  for (; t > 0; t >>= 1) {
    if (t & 1) result = result * base;
    base = base * base;
  }
  return result;
}

// A parameter under decoupled weight decay (Loshchilov & Hutter 2019, alg. 2). The last line of every rule is w - u or
// w + u; on this type it subtracts d*w as well, with d = T(lr*weight_decay), so no rule needs to know of the decay.
template <class T>
struct Decayed {
  T w, d;
  HD void operator=(T stepped) { w = stepped; }
  friend HD T operator-(const Decayed& p, T u) { return p.w - (u + (p.d * p.w)); }
  friend HD T operator+(const Decayed& p, T u) { return p.w + (u - (p.d * p.w)); }
};

// Textbooks and papers differ in where eps stands, sqrt(r) + eps or sqrt(r + eps), and near g = 0 so do the steps.
enum EpsPlacement { outside, inside };

// What AdaGrad and RMSProp divide by.
template <EpsPlacement placement, class T>
HD T denominator(T r, T eps) {
  return placement == outside ? root(r) + eps : root(r + eps);
}

// ---- gradient descent, with and without momentum ----

// Gradient descent (Goodfellow et al. 2016, eq. 4.5 and alg. 8.1).
//   w = w - lr*g
template <class T>
struct Sgd {
  T lr;
  static HD Sgd at(long long, double lr) { return {T(lr)}; }
  template <class W>
  HD void operator()(W& w, T g) const {
    T u = lr * g;
    w = w - u;
  }
};

// Polyak's heavy ball (1964), in the velocity form of Goodfellow et al. 8.15-8.16.
//   v = a*v - lr*g
//   w = w + v
template <class T>
struct HeavyBall {
  T lr, a;
  static HD HeavyBall at(long long, double lr, double momentum) { return {T(lr), T(momentum)}; }
  template <class W>
  HD void operator()(W& w, T g, T& v) const {
    v = (a * v) - (lr * g);
    w = w + v;
  }
};

// Momentum as PyTorch's SGD has it. The buffer holds gradients, not steps, so a new lr acts on the old ones too.
//   b = g at the first step, then b = a*b + g
//   w = w - lr*b
template <class T>
struct TorchMomentum {
  T lr, a;
  bool first;
  static HD TorchMomentum at(long long t, double lr, double momentum) { return {T(lr), T(momentum), t == 1}; }
  template <class W>
  HD void operator()(W& w, T g, T& b) const {
    b = first ? g : (a * b) + g;
    w = w - (lr * b);
  }
};

// The same with PyTorch's dampening: gradients after the first enter the buffer scaled by k = 1 - dampening.
//   b = g at the first step, then b = a*b + k*g
//   w = w - lr*b
template <class T>
struct DampenedMomentum {
  T lr, a, k;
  bool first;
  static HD DampenedMomentum at(long long t, double lr, double momentum, double dampening) {
    return {T(lr), T(momentum), T(1.0 - dampening), t == 1};
  }
  template <class W>
  HD void operator()(W& w, T g, T& b) const {
    b = first ? g : (a * b) + (k * g);
    w = w - (lr * b);
  }
};

// Nesterov's accelerated gradient (1983) with one gradient a step, evaluated at the stored w. That w is the look-ahead
// point x + a*v of the form of Sutskever et al. (2013; Goodfellow et al. 8.21-8.22), whose iterate is
// x = w - a_next*v.
//   v = a*v - lr*g
//   w = w + (a_next*v - lr*g)
template <class T>
struct LookAhead {
  T lr, a, a_next;
  static HD LookAhead at(long long, double lr, double momentum, double momentum_next) {
    return {T(lr), T(momentum), T(momentum_next)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& v) const {
    T t = lr * g;
    v = (a * v) - t;
    T u = (a_next * v) - t;
    w = w + u;
  }
};

// Nesterov's momentum as PyTorch's SGD has it. b starts at 0, so the first step needs no case of its own.
//   b = a*b + g
//   w = w - lr*(g + a*b)
template <class T>
struct TorchNesterov {
  T lr, a;
  static HD TorchNesterov at(long long, double lr, double momentum) { return {T(lr), T(momentum)}; }
  template <class W>
  HD void operator()(W& w, T g, T& b) const {
    b = (a * b) + g;
    T d = g + (a * b);
    w = w - (lr * d);
  }
};

// ---- steps divided by the size of past gradients ----

// AdaGrad (Duchi et al. 2011; Goodfellow et al. alg. 8.4), with PyTorch's decay of the learning rate.
//   lr_t = lr/(1 + (t - 1)*lr_decay)
//   r = r + g^2
//   w = w - lr_t/(sqrt(r) + eps) * g    or, with eps inside,  lr_t/sqrt(r + eps)
template <class T, EpsPlacement placement>
struct AdaGrad {
  T lr, eps;
  static HD AdaGrad at(long long t, double lr, double eps, double lr_decay) {
    return {T(lr / (1.0 + double(t - 1) * lr_decay)), T(eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r) const {
    r = r + (g * g);
    T q = lr / denominator<placement>(r, eps);
    w = w - (q * g);
  }
};

// RMSProp (Hinton 2012; Goodfellow et al. alg. 8.5); here and below o = 1 - rho.
//   r = rho*r + o*g^2
//   w = w - lr/sqrt(r + eps) * g        or, with eps outside,  lr/(sqrt(r) + eps)
template <class T, EpsPlacement placement>
struct RmsProp {
  T lr, rho, o, eps;
  static HD RmsProp at(long long, double lr, double rho, double eps) { return {T(lr), T(rho), T(1.0 - rho), T(eps)}; }
  template <class W>
  HD void operator()(W& w, T g, T& r) const {
    r = (rho * r) + (o * (g * g));
    T q = lr / denominator<placement>(r, eps);
    w = w - (q * g);
  }
};

// Centered RMSProp (Graves 2013): divided by the deviation about the mean gradient c. Rounding may leave r - c^2 below
// 0, and its root is then NaN, as in PyTorch.
//   c = rho*c + o*g
//   w = w - lr/sqrt(r - c^2 + eps) * g
template <class T, EpsPlacement placement>
struct CenteredRmsProp {
  T lr, rho, o, eps;
  static HD CenteredRmsProp at(long long, double lr, double rho, double eps) {
    return {T(lr), T(rho), T(1.0 - rho), T(eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r, T& c) const {
    r = (rho * r) + (o * (g * g));
    c = (rho * c) + (o * g);
    T var = r - (c * c);
    T q = lr / denominator<placement>(var, eps);
    w = w - (q * g);
  }
};

// RMSProp with momentum as PyTorch has it: the buffer holds steps without lr.
//   b = a*b + g/sqrt(r + eps)
//   w = w - lr*b
template <class T, EpsPlacement placement>
struct RmsPropMomentum {
  T lr, rho, o, eps, a;
  static HD RmsPropMomentum at(long long, double lr, double rho, double eps, double momentum) {
    return {T(lr), T(rho), T(1.0 - rho), T(eps), T(momentum)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r, T& b) const {
    r = (rho * r) + (o * (g * g));
    T q = g / denominator<placement>(r, eps);
    b = (a * b) + q;
    w = w - (lr * b);
  }
};

// RMSProp centered and with momentum, likewise as PyTorch has it.
//   b = a*b + g/sqrt(r - c^2 + eps)
//   w = w - lr*b
template <class T, EpsPlacement placement>
struct CenteredRmsPropMomentum {
  T lr, rho, o, eps, a;
  static HD CenteredRmsPropMomentum at(long long, double lr, double rho, double eps, double momentum) {
    return {T(lr), T(rho), T(1.0 - rho), T(eps), T(momentum)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r, T& c, T& b) const {
    r = (rho * r) + (o * (g * g));
    c = (rho * c) + (o * g);
    T var = r - (c * c);
    T q = g / denominator<placement>(var, eps);
    b = (a * b) + q;
    w = w - (lr * b);
  }
};

// Adam (Kingma & Ba 2015, alg. 1; Goodfellow et al. alg. 8.7); o1 = 1 - b1, o2 = 1 - b2.
//   m = b1*m + o1*g
//   v = b2*v + o2*g^2
//   w = w - lr/(1 - b1^t) * m/den,  den = sqrt(v/(1 - b2^t)) + eps   or   sqrt(v/(1 - b2^t) + eps)
// The corrections of the start at 0 depend on t alone, so they are two scalars a step: step and k, which is
// 1/sqrt(1 - b2^t) where eps stands outside and 1/(1 - b2^t) where it stands inside.
template <class T, EpsPlacement placement>
struct Adam {
  T b1, o1, b2, o2, k, eps, step;
  static HD Adam at(long long t, double lr, double beta1, double beta2, double eps) {
    double c1 = 1.0 - power(beta1, t);
    double c2 = 1.0 - power(beta2, t);
    double k = placement == outside ? 1.0 / root(c2) : 1.0 / c2;
    return {T(beta1), T(1.0 - beta1), T(beta2), T(1.0 - beta2), T(k), T(eps), T(lr / c1)};
  }
  HD T denominator(T v) const { return placement == outside ? (root(v) * k) + eps : root((v * k) + eps); }
  template <class W>
  HD void operator()(W& w, T g, T& m, T& v) const {
    m = (b1 * m) + (o1 * g);
    v = (b2 * v) + (o2 * (g * g));
    T den = denominator(v);
    T q = m / den;
    w = w - (step * q);
  }
};

// AMSGrad (Reddi et al. 2018) as PyTorch has it: Adam divided by the largest v so far. The comparison is false for a
// NaN in v, so h keeps its last number then; a maximum instruction would not on every processor.
//   h = max(v, h)
//   w = w - lr/(1 - b1^t) * m/den,  den as Adam's, of h
template <class T, EpsPlacement placement>
struct AmsGrad {
  Adam<T, placement> adam;
  static HD AmsGrad at(long long t, double lr, double beta1, double beta2, double eps) {
    return {Adam<T, placement>::at(t, lr, beta1, beta2, eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& m, T& v, T& h) const {
    m = (adam.b1 * m) + (adam.o1 * g);
    v = (adam.b2 * v) + (adam.o2 * (g * g));
    h = v > h ? v : h;
    T den = adam.denominator(h);
    T q = m / den;
    w = w - (adam.step * q);
  }
};

}  // namespace
}  // namespace samestep

// A rule's name, by which state dicts, digests and kernels know it, is formed here and nowhere else, from its tokens.
#define FAMILY(X, family, ...) X(family, family, , , __VA_ARGS__)
#define FORM(X, family, form, ...) X(family##_##form, family, form, , __VA_ARGS__)
#define VARIANT(X, family, form, variant, ...) X(family##_##form##_##variant, family, form, variant, __VA_ARGS__)

// The registry. A row: the tokens, the hyper-parameters in the order of at(), the states in the order of operator(),
// the struct. What is passed as X gets (name, family, form, variant, hyper-parameters, states, the struct); form and
// variant are empty where a rule has none.
#define FOR_EACH_RULE(X)                                                                                               \
  FAMILY(X, sgd, "lr", "", Sgd<T>)                                                                                     \
  FORM(X, momentum, heavy_ball, "lr momentum", "v", HeavyBall<T>)                                                      \
  FORM(X, momentum, torch, "lr momentum", "b", TorchMomentum<T>)                                                       \
  VARIANT(X, momentum, torch, dampened, "lr momentum dampening", "b", DampenedMomentum<T>)                             \
  FORM(X, nag, look_ahead, "lr momentum momentum_next", "v", LookAhead<T>)                                             \
  FORM(X, nag, torch, "lr momentum", "b", TorchNesterov<T>)                                                            \
  FORM(X, adagrad, outside, "lr eps lr_decay", "r", AdaGrad<T, outside>)                                               \
  FORM(X, adagrad, inside, "lr eps lr_decay", "r", AdaGrad<T, inside>)                                                 \
  FORM(X, rmsprop, outside, "lr rho eps", "r", RmsProp<T, outside>)                                                    \
  FORM(X, rmsprop, inside, "lr rho eps", "r", RmsProp<T, inside>)                                                      \
  VARIANT(X, rmsprop, outside, centered, "lr rho eps", "r c", CenteredRmsProp<T, outside>)                             \
  VARIANT(X, rmsprop, inside, centered, "lr rho eps", "r c", CenteredRmsProp<T, inside>)                               \
  VARIANT(X, rmsprop, outside, momentum, "lr rho eps momentum", "r b", RmsPropMomentum<T, outside>)                    \
  VARIANT(X, rmsprop, inside, momentum, "lr rho eps momentum", "r b", RmsPropMomentum<T, inside>)                      \
  VARIANT(X, rmsprop, outside, centered_momentum, "lr rho eps momentum", "r c b", CenteredRmsPropMomentum<T, outside>) \
  VARIANT(X, rmsprop, inside, centered_momentum, "lr rho eps momentum", "r c b", CenteredRmsPropMomentum<T, inside>)   \
  FORM(X, adam, outside, "lr beta1 beta2 eps", "m v", Adam<T, outside>)                                                \
  FORM(X, adam, inside, "lr beta1 beta2 eps", "m v", Adam<T, inside>)                                                  \
  VARIANT(X, adam, outside, amsgrad, "lr beta1 beta2 eps", "m v h", AmsGrad<T, outside>)                               \
  VARIANT(X, adam, inside, amsgrad, "lr beta1 beta2 eps", "m v h", AmsGrad<T, inside>)
