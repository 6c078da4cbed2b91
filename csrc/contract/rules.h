// Every update rule, once: coefficients from hyper-parameters and step number, then the formula for one element.
// No loops, no threads, no instruction sets. The order of operations is part of the interface: it fixes the bits.
//
// A rule is a struct of coefficients with
//   at(t, hyper-parameters...)   forms them in float64 and rounds each once to T; t = 1, 2, ... counts the steps
//   operator()(w, g, states...)  updates parameter w and the states in place from gradient g; w is a T or a Decayed<T>
// and a row of FOR_EACH_RULE at the end of this file. Its NumPy twin is python/samestep/backends/reference/rules.py.
#pragma once
#include "contract/fp.h"

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

// A parameter under decoupled weight decay (Loshchilov & Hutter 2019). The last line of a rule, w - u or w + u, then
// takes d*w away as well, d = T(lr*weight_decay).
template <class T>
struct Decayed {
  T w, d;
  HD void operator=(T stepped) { w = stepped; }
  friend HD T operator-(const Decayed& p, T u) { return p.w - (u + (p.d * p.w)); }
  friend HD T operator+(const Decayed& p, T u) { return p.w + (u - (p.d * p.w)); }
};

// Where eps stands: sqrt(r) + eps, or sqrt(r + eps). The texts differ, and so do the steps near g = 0.
enum EpsPlacement { outside, inside };

// Gradient descent.  w = w - lr*g
template <class T>
struct Sgd {
  T lr;
  static Sgd at(long long, double lr) { return {T(lr)}; }
  template <class W>
  HD void operator()(W& w, T g) const {
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
  template <class W>
  HD void operator()(W& w, T g, T& v) const {
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
  template <class W>
  HD void operator()(W& w, T g, T& b) const {
    b = first ? g : (a * b) + g;
    w = w - (lr * b);
  }
};

// The same with dampening: gradients after the first enter the buffer scaled.
//   b = g at the first step, then b = a*b + (1 - dampening)*g;  w = w - lr*b
template <class T>
struct DampenedMomentum {
  T lr, a, k;
  bool first;
  static DampenedMomentum at(long long t, double lr, double momentum, double dampening) {
    return {T(lr), T(momentum), T(1.0 - dampening), t == 1};
  }
  template <class W>
  HD void operator()(W& w, T g, T& b) const {
    b = first ? g : (a * b) + (k * g);
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
  template <class W>
  HD void operator()(W& w, T g, T& v) const {
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
  template <class W>
  HD void operator()(W& w, T g, T& b) const {
    b = (a * b) + g;
    T d = g + (a * b);
    w = w - (lr * d);
  }
};

// AdaGrad (Duchi et al. 2011; Goodfellow et al. alg. 8.4), with PyTorch's decay of the learning rate.
//   lr_t = lr/(1 + (t - 1)*lr_decay),  r = r + g^2,  w = w - lr_t/(sqrt(r) + eps) * g
template <class T, EpsPlacement placement>
struct AdaGrad {
  T lr, eps;
  static AdaGrad at(long long t, double lr, double eps, double lr_decay) {
    return {T(lr / (1.0 + double(t - 1) * lr_decay)), T(eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r) const {
    r = r + (g * g);
    T q = lr / (placement == outside ? root(r) + eps : root(r + eps));
    w = w - (q * g);
  }
};

// What RMSProp divides by. var is r, or r - c^2 where the mean gradient c is known (centered).
//   r = rho*r + (1 - rho)*g^2,  c = rho*c + (1 - rho)*g
template <class T, EpsPlacement placement>
struct RmsPropMeans {
  T rho, o, eps;
  static RmsPropMeans of(double rho, double eps) { return {T(rho), T(1.0 - rho), T(eps)}; }
  HD T denominator(T var) const { return placement == outside ? root(var) + eps : root(var + eps); }
  HD T uncentered(T g, T& r) const {
    r = (rho * r) + (o * (g * g));
    return denominator(r);
  }
  HD T centered(T g, T& r, T& c) const {
    r = (rho * r) + (o * (g * g));
    c = (rho * c) + (o * g);
    return denominator(r - (c * c));
  }
};

// RMSProp (Hinton 2012; Goodfellow et al. alg. 8.5).
//   r = rho*r + (1 - rho)*g^2,  w = w - lr/sqrt(r + eps) * g
template <class T, EpsPlacement placement>
struct RmsProp {
  T lr;
  RmsPropMeans<T, placement> means;
  static RmsProp at(long long, double lr, double rho, double eps) {
    return {T(lr), RmsPropMeans<T, placement>::of(rho, eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r) const {
    T q = lr / means.uncentered(g, r);
    w = w - (q * g);
  }
};

// Centered RMSProp (Graves 2013): the square of the mean gradient is taken from the mean square.
//   c = rho*c + (1 - rho)*g,  w = w - lr/sqrt(r - c^2 + eps) * g
template <class T, EpsPlacement placement>
struct CenteredRmsProp {
  T lr;
  RmsPropMeans<T, placement> means;
  static CenteredRmsProp at(long long, double lr, double rho, double eps) {
    return {T(lr), RmsPropMeans<T, placement>::of(rho, eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r, T& c) const {
    T q = lr / means.centered(g, r, c);
    w = w - (q * g);
  }
};

// RMSProp with momentum, PyTorch's form.
//   b = momentum*b + g/sqrt(r + eps),  w = w - lr*b
template <class T, EpsPlacement placement>
struct RmsPropMomentum {
  T lr, a;
  RmsPropMeans<T, placement> means;
  static RmsPropMomentum at(long long, double lr, double rho, double eps, double momentum) {
    return {T(lr), T(momentum), RmsPropMeans<T, placement>::of(rho, eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r, T& b) const {
    T q = g / means.uncentered(g, r);
    b = (a * b) + q;
    w = w - (lr * b);
  }
};

// Both.
template <class T, EpsPlacement placement>
struct CenteredRmsPropMomentum {
  T lr, a;
  RmsPropMeans<T, placement> means;
  static CenteredRmsPropMomentum at(long long, double lr, double rho, double eps, double momentum) {
    return {T(lr), T(momentum), RmsPropMeans<T, placement>::of(rho, eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& r, T& c, T& b) const {
    T q = g / means.centered(g, r, c);
    b = (a * b) + q;
    w = w - (lr * b);
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
  template <class W>
  HD void operator()(W& w, T g, T& m, T& v) const {
    m = (b1 * m) + (o1 * g);
    v = (b2 * v) + (o2 * (g * g));
    T den = placement == outside ? (root(v) * k) + eps : root((v * k) + eps);
    T q = m / den;
    w = w - (step * q);
  }
};

// AMSGrad (Reddi et al. 2018), PyTorch's form: Adam with the largest v so far in the place of v.
//   h = max(v, h),  w = w - lr/(1 - b1^t) * m/den(h)
template <class T, EpsPlacement placement>
struct AmsGrad {
  Adam<T, placement> adam;
  static AmsGrad at(long long t, double lr, double beta1, double beta2, double eps) {
    return {Adam<T, placement>::at(t, lr, beta1, beta2, eps)};
  }
  template <class W>
  HD void operator()(W& w, T g, T& m, T& v, T& h) const {
    m = (adam.b1 * m) + (adam.o1 * g);
    v = (adam.b2 * v) + (adam.o2 * (g * g));
    h = v > h ? v : h;
    T den = placement == outside ? (root(h) * adam.k) + adam.eps : root((h * adam.k) + adam.eps);
    T q = m / den;
    w = w - (adam.step * q);
  }
};

}  // namespace
}  // namespace samestep

// X(name, hyper-parameters in the order of at(), states in the order of operator(), the struct)
#define FOR_EACH_RULE(X)                                                                                    \
  X(sgd, "lr", "", Sgd<T>)                                                                                  \
  X(momentum_heavy_ball, "lr momentum", "v", HeavyBall<T>)                                                  \
  X(momentum_torch, "lr momentum", "b", TorchMomentum<T>)                                                   \
  X(momentum_torch_dampened, "lr momentum dampening", "b", DampenedMomentum<T>)                             \
  X(nag_look_ahead, "lr momentum momentum_next", "v", LookAhead<T>)                                         \
  X(nag_torch, "lr momentum", "b", TorchNesterov<T>)                                                        \
  X(adagrad_outside, "lr eps lr_decay", "r", AdaGrad<T, outside>)                                           \
  X(adagrad_inside, "lr eps lr_decay", "r", AdaGrad<T, inside>)                                             \
  X(rmsprop_outside, "lr rho eps", "r", RmsProp<T, outside>)                                                \
  X(rmsprop_inside, "lr rho eps", "r", RmsProp<T, inside>)                                                  \
  X(rmsprop_outside_centered, "lr rho eps", "r c", CenteredRmsProp<T, outside>)                             \
  X(rmsprop_outside_momentum, "lr rho eps momentum", "r b", RmsPropMomentum<T, outside>)                    \
  X(rmsprop_outside_centered_momentum, "lr rho eps momentum", "r c b", CenteredRmsPropMomentum<T, outside>) \
  X(rmsprop_inside_centered, "lr rho eps", "r c", CenteredRmsProp<T, inside>)                               \
  X(rmsprop_inside_momentum, "lr rho eps momentum", "r b", RmsPropMomentum<T, inside>)                      \
  X(rmsprop_inside_centered_momentum, "lr rho eps momentum", "r c b", CenteredRmsPropMomentum<T, inside>)   \
  X(adam_outside, "lr beta1 beta2 eps", "m v", Adam<T, outside>)                                            \
  X(adam_inside, "lr beta1 beta2 eps", "m v", Adam<T, inside>)                                              \
  X(adam_outside_amsgrad, "lr beta1 beta2 eps", "m v h", AmsGrad<T, outside>)                               \
  X(adam_inside_amsgrad, "lr beta1 beta2 eps", "m v h", AmsGrad<T, inside>)
