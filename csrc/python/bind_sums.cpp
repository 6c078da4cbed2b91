// The canonical sum and the norm of arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <vector>

#include "python/arrays.h"
#include "python/bind.h"
#include "run/jobs.h"

namespace samestep {

namespace {

// x (outer, n, inner) -> csum over the middle axis (outer, inner), flat, in C order.
Doubles sum_of_array(const py::array& x, Index outer, Index n, Index inner) {
  if (!has_flags(x, kContiguous) || outer * n * inner != x.size()) {
    throw std::invalid_argument("x: expected a contiguous array of outer*n*inner elements");
  }
  Type type = type_of(x);
  Doubles out(outer * inner);
  double* to = out.mutable_data();
  py::gil_scoped_release others_may_run;
  canonical_sum(type, values, x.data(), outer, n, inner, to);
  return out;
}

// sqrt of the sum of the squares of all elements.
double norm_of_arrays(const std::vector<py::array>& arrays) {
  std::vector<Run> runs;
  for (const py::array& array : arrays) {
    if (!has_flags(array, kContiguous)) throw std::invalid_argument("arrays: expected contiguous ones");
    runs.push_back({type_of(array), array.data(), static_cast<Index>(array.size())});
  }
  py::gil_scoped_release others_may_run;
  return global_norm(runs);
}

}  // namespace

void bind_sums(py::module_& m) {
  m.def("canonical_sum", sum_of_array, py::arg("x"), py::arg("outer"), py::arg("n"), py::arg("inner"));
  m.def("global_norm", norm_of_arrays, py::arg("arrays"));
}

}  // namespace samestep
