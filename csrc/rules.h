// Every update rule, once: coefficients from hyper-parameters and step number, then the formula for one element.
// No loops, no threads, no instruction sets. The order of operations is part of the interface: it fixes the bits.
//
// A rule is a struct of coefficients with
//   at(t, hyper-parameters...)   forms them in float64 and rounds each once to T; t = 1, 2, ... counts the steps
//   operator()(w, g, states...)  updates parameter w and the states in place from gradient g
// and a row of FOR_EACH_RULE at the end of this file. Its NumPy twin is python/samestep/reference/rules.py.
#pragma once
#include "fp.h"

namespace samestep {
namespace {  // internal linkage: code built for AVX-512 must never win at link time

// base^t by right-to-left binary powering. Not libm's pow: its last bit differs between systems.
inline double power(double base, long long t) {
  double result = 1.0;
  for (; t > 0; t >>= 1) {
    if (t & 1) result = result * base;
    base = base * base;
  }
  return result;
}

// Where eps stands: sqrt(r) + eps, or sqrt(r + eps). The texts differ, and so do the steps near g = 0.
enum EpsPlacement { outside, inside };

// Gradient descent.  w = w - lr*g
template <class T>
struct Sgd {
  T lr;
  static Sgd at(long long, double lr) { return {T(lr)}; }
  HD void operator()(T& w, T g) const {
    T u = lr * g;
    w = w - u;
  }
};

// Polyak's heavy ball (1964), the velocity form of Goodfellow et al. 8.15-8.16.
//   v = a*v - lr*g,  w = w + v
template <class T>
struct HeavyBall {
  T lr, a;
  static HeavyBall at(long long, double lr, double momentum) { return {T(lr), T(momentum)}; }
  HD void operator()(T& w, T g, T& v) const {
    v = (a * v) - (lr * g);
    w = w + v;
  }
};

// PyTorch's momentum. The buffer holds gradients, not steps, so a new lr acts on the old ones too.
//   b = g at the first step, then b = a*b + g;  w = w - lr*b
template <class T>
struct TorchMomentum {
  T lr, a;
  bool first;
  static TorchMomentum at(long long t, double lr, double momentum) { return {T(lr), T(momentum), t == 1}; }
  HD void operator()(T& w, T g, T& b) const {
    b = first ? g : (a * b) + g;
    w = w - (lr * b);
  }
};

// Nesterov's accelerated gradient (1983) with one gradient a step, taken at the stored w.
// w is the look-ahead point x + a*v of Sutskever's form (Goodfellow et al. 8.21-8.22); x = w - a_next*v.
//   v = a*v - lr*g,  w = w + (a_next*v - lr*g)
template <class T>
struct LookAhead {
  T lr, a, a_next;
  static LookAhead at(long long, double lr, double momentum, double momentum_next) {
    return {T(lr), T(momentum), T(momentum_next)};
  }
  HD void operator()(T& w, T g, T& v) const {
    T t = lr * g;
    v = (a * v) - t;
    T u = (a_next * v) - t;
    w = w + u;
  }
};

// PyTorch's Nesterov momentum.  b = a*b + g,  w = w - lr*(g + a*b)
template <class T>
struct TorchNesterov {
  T lr, a;
  static TorchNesterov at(long long, double lr, double momentum) { return {T(lr), T(momentum)}; }
  HD void operator()(T& w, T g, T& b) const {
    b = (a * b) + g;
    T d = g + (a * b);
    w = w - (lr * d);
  }
};

// AdaGrad (Duchi et al. 2011; Goodfellow et al. alg. 8.4).
//   r = r + g^2,  w = w - lr/(sqrt(r) + eps) * g
template <class T, EpsPlacement placement>
struct AdaGrad {
  T lr, eps;
  static AdaGrad at(long long, double lr, double eps) { return {T(lr), T(eps)}; }
  HD void operator()(T& w, T g, T& r) const {
    r = r + (g * g);
    T q = lr / (placement == outside ? root(r) + eps : root(r + eps));
    w = w - (q * g);
  }
};

// RMSProp (Hinton 2012; Goodfellow et al. alg. 8.5).
//   r = rho*r + (1 - rho)*g^2,  w = w - lr/sqrt(r + eps) * g
template <class T, EpsPlacement placement>
struct RmsProp {
  T lr, rho, o, eps;
  static RmsProp at(long long, double lr, double rho, double eps) { return {T(lr), T(rho), T(1.0 - rho), T(eps)}; }
  HD void operator()(T& w, T g, T& r) const {
    r = (rho * r) + (o * (g * g));
    T q = lr / (placement == outside ? root(r) + eps : root(r + eps));
    w = w - (q * g);
  }
};

// Adam (Kingma & Ba 2015, alg. 1; Goodfellow et al. alg. 8.7). The bias corrections are two scalars a step.
//   m = b1*m + (1 - b1)*g,  v = b2*v + (1 - b2)*g^2,  w = w - lr/(1 - b1^t) * m/den
//   den = sqrt(v/(1 - b2^t)) + eps   or   sqrt(v/(1 - b2^t) + eps)
template <class T, EpsPlacement placement>
struct Adam {
  T b1, o1, b2, o2, k, eps, step;
  static Adam at(long long t, double lr, double beta1, double beta2, double eps) {
    double c1 = 1.0 - power(beta1, t);
    double c2 = 1.0 - power(beta2, t);
    double k = placement == outside ? 1.0 / root(c2) : 1.0 / c2;
    return {T(beta1), T(1.0 - beta1), T(beta2), T(1.0 - beta2), T(k), T(eps), T(lr / c1)};
  }
  HD void operator()(T& w, T g, T& m, T& v) const {
    m = (b1 * m) + (o1 * g);
    v = (b2 * v) + (o2 * (g * g));
    T den = placement == outside ? (root(v) * k) + eps : root((v * k) + eps);
    T q = m / den;
    w = w - (step * q);
  }
};

}  // namespace
}  // namespace samestep

// X(name, hyper-parameters in the order of at(), states in the order of operator(), the struct)
#define FOR_EACH_RULE(X)                                            \
  X(sgd, "lr", "", Sgd<T>)                                          \
  X(momentum_heavy_ball, "lr momentum", "v", HeavyBall<T>)          \
  X(momentum_torch, "lr momentum", "b", TorchMomentum<T>)           \
  X(nag_look_ahead, "lr momentum momentum_next", "v", LookAhead<T>) \
  X(nag_torch, "lr momentum", "b", TorchNesterov<T>)                \
  X(adagrad_outside, "lr eps", "r", AdaGrad<T, outside>)            \
  X(adagrad_inside, "lr eps", "r", AdaGrad<T, inside>)              \
  X(rmsprop_outside, "lr rho eps", "r", RmsProp<T, outside>)        \
  X(rmsprop_inside, "lr rho eps", "r", RmsProp<T, inside>)          \
  X(adam_outside, "lr beta1 beta2 eps", "m v", Adam<T, outside>)    \
  X(adam_inside, "lr beta1 beta2 eps", "m v", Adam<T, inside>)
