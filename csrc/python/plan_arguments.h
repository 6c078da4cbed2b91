// The arguments from Python that plans are made of and stepped with: a rule's name, options, numbers.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "python/arrays.h"
#include "run/plan.h"

namespace samestep {

// The table's row of this name.
inline int find_rule(const std::string& name) {
  for (int i = 0; i < active_isa().n_rules; ++i) {
    if (name == active_isa().rules[i].name) return i;
  }
  throw std::invalid_argument("rule: got '" + name + "', expected one of rules()");
}

inline void read_option(py::handle value, bool* out) { *out = value.cast<bool>(); }
inline void read_option(py::handle value, double* out) { *out = value.cast<double>(); }
inline void read_option(py::handle value, std::optional<std::uint64_t>* out) { *out = value.cast<std::uint64_t>(); }
inline void read_option(py::handle value, Nonfinite* out) {
  *out = value.cast<std::string>() == "propagate" ? Nonfinite::propagate : Nonfinite::refuse;
}

// options: of samestep.backends.options.Options, or None. A field that is None leaves the option off.
inline Options options_of(const py::object& options) {
  Options out;
  const auto read = [&](const char* name, auto* field) {
    const py::object value = options.attr(name);
    if (!value.is_none()) read_option(value, field);
  };
  if (options.is_none()) return out;
#define READ_OPTION(type, name, absent) read(#name, &out.name);
  FOR_EACH_OPTION(READ_OPTION)
#undef READ_OPTION
  return out;
}

inline Index gradient_bytes(const Tensor& t) { return t.size * (t.storage != as_is ? 2 : bytes_of(t.type)); }

inline void check_hyper(const Plan& plan, const std::vector<double>& hyper) {
  if (static_cast<int>(hyper.size()) != plan.n_groups() * active_isa().rules[plan.rule()].n_hyper) {
    throw std::invalid_argument("hyper: wrong number of values");
  }
}

// sums: None, or the array (tensors, kinds) in which a step leaves them.
inline BlockSums block_sums_of(const py::object& sums, size_t tensors) {
  if (sums.is_none()) return {};
  using Sums = py::array_t<std::uint64_t>;
  if (!py::isinstance<Sums>(sums) || !has_flags(sums, kInPlace | kContiguous) || Sums(sums).ndim() != 2 ||
      Sums(sums).shape(0) != static_cast<py::ssize_t>(tensors)) {
    throw std::invalid_argument("sums: expected a writeable uint64 array in C order, with a row for every parameter");
  }
  const Sums rows(sums);
  return {reinterpret_cast<unsigned long long*>(raw(rows).data), static_cast<int>(rows.shape(1))};
}

inline void check_steps(const py::array_t<Index>& steps, size_t params) {
  if (steps.size() != py::ssize_t(params + 1) || !has_flags(steps, kInPlace | py::array::c_style)) {
    throw std::invalid_argument("steps: expected one for every parameter, and one more, in one writeable block");
  }
}

// What a step returns, unless it is the number of the first gradient that does not fit as it is. A step that does not
// return kStepped or kMismatched has written nothing. Python's names for these are in backends/face.py.
constexpr Index kStepped = -1, kMoved = -2, kNonfinite = -3, kMismatched = -4;

// What accept_gradients() returns where all gradients fit.
constexpr Index kAccepted = kStepped;

}  // namespace samestep
