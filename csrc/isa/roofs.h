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

// X(name, hyper-parameters, states, the struct), as in rules.h
#define FOR_EACH_ROOF(X)                \
  X(roof_0, "lr", "", Roof<T>)          \
  X(roof_1, "lr", "a", Roof<T, T>)      \
  X(roof_2, "lr", "a b", Roof<T, T, T>) \
  X(roof_3, "lr", "a b c", Roof<T, T, T, T>)
