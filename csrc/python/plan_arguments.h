// What plans are made of and stepped with, as Python hands it in.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "python/arrays.h"
#include "run/plan.h"

namespace samestep {

// The rule's row in the tables.
inline int find_rule(const std::string& name) {
  const Isa& isa = active_isa();
  for (int i = 0; i < isa.n_rules + isa.n_roofs; ++i) {
    if (name == isa.rules[i].name) return i;
  }
  throw std::invalid_argument("rule: got '" + name + "', expected one of rules()");
}

inline Options options_of(const py::object& options) {
  Options out;
  out.decoupled = options.attr("decoupled").cast<bool>();
  out.maximize = options.attr("maximize").cast<bool>();
  out.zero_grads = options.attr("zero_grads").cast<bool>();
  out.flush_subnormals = options.attr("flush_subnormals").cast<bool>();
  out.nonfinite =
      options.attr("nonfinite").cast<std::string>() == "propagate" ? Nonfinite::propagate : Nonfinite::refuse;
  out.clip_norm = options.attr("clip_norm").cast<double>();
  out.clip_value = options.attr("clip_value").cast<double>();
  out.ema = options.attr("ema").cast<double>();
  out.rounds_at_random = !options.attr("stochastic_rounding").is_none();
  if (out.rounds_at_random) out.seed = options.attr("stochastic_rounding").cast<std::uint64_t>();
  return out;
}

inline Index gradient_bytes(const Tensor& t) { return t.size * (t.storage != as_is ? 2 : bytes_of(t.type)); }

inline void check_hyper(const Plan& plan, const std::vector<double>& hyper) {
  if (static_cast<int>(hyper.size()) != plan.n_groups() * active_isa().rules[plan.rule()].n_hyper) {
    throw std::invalid_argument("hyper: wrong number of values");
  }
}

inline void check_steps(const py::array_t<Index>& steps, size_t params) {
  if (steps.size() != py::ssize_t(params + 1) || !has_flags(steps, kInPlace | py::array::c_style)) {
    throw std::invalid_argument("steps: expected one for every parameter, and one more, in one writeable block");
  }
}

// What accept_gradients() returns, else the first gradient to be looked at more closely.
constexpr Index kAccepted = -1;

}  // namespace samestep
