// The roof of a rule that memory bounds: the same arrays read and written, with one addition each. Rows of the table
// behind the rules, for benchmarks.
#pragma once
#include "contract/fp.h"

namespace samestep {
namespace {

// w = w + g,  s = s + g for each state s; all (n)
template <class T, class... States>
struct Roof {
  static Roof at(long long, double) { return {}; }  // lr, the first of every row, plays no part
  template <class W>
  HD void operator()(W& w, T g, States&... states) const {
    w = w + g;
    ((states = states + g), ...);
  }
};

}  // namespace
}  // namespace samestep

// Rows as in rules.h: the name, hyper-parameters, states, the struct.
#define FOR_EACH_ROOF(X)                        \
  FAMILY(X, roof_0, "lr", "", Roof<T>)          \
  FAMILY(X, roof_1, "lr", "a", Roof<T, T>)      \
  FAMILY(X, roof_2, "lr", "a b", Roof<T, T, T>) \
  FAMILY(X, roof_3, "lr", "a b c", Roof<T, T, T, T>)
