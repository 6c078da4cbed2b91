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

void check_elements(const py::array& a, Index expected, const char* message) {
  if (!has_flags(a, kContiguous) || a.size() != expected) throw std::invalid_argument(message);
}

// x (outer, n, inner) -> csum over the middle axis (outer, inner), flat, in C order.
Doubles sum_of_array(const py::array& x, Index outer, Index n, Index inner) {
  check_elements(x, outer * n * inner, "x: expected a contiguous array of outer*n*inner elements");
  Type type = type_of(x);
  Doubles out(outer * inner);
  double* to = out.mutable_data();
  py::gil_scoped_release others_may_run;
  canonical_sum(type, values, x.data(), outer, n, inner, to);
  return out;
}

// x (outer, n, inner) -> the sums of its blocks, or of their squares (outer, blocks, inner), flat.
Doubles block_sums_of_array(const py::array& x, Index outer, Index n, Index inner, bool of_squares) {
  check_elements(x, outer * n * inner, "x: expected a contiguous array of outer*n*inner elements");
  Type type = type_of(x);
  Doubles out(outer * ceil_div(n, kSumBlock) * inner);
  double* to = out.mutable_data();
  py::gil_scoped_release others_may_run;
  block_sums(type, of_squares ? squares : values, x.data(), outer, n, inner, to);
  return out;
}

// The block sums (outer, blocks, inner) -> their totals (outer, inner), flat.
Doubles pair_block_sums(const Doubles& sums, Index outer, Index blocks, Index inner) {
  check_elements(sums, outer * blocks * inner, "sums: expected a contiguous array of outer*blocks*inner elements");
  std::vector<double> copy(sums.data(), sums.data() + sums.size());
  Doubles out(outer * inner);
  double* to = out.mutable_data();
  py::gil_scoped_release others_may_run;
  pair_sums(copy.data(), outer, blocks, inner, to);
  return out;
}

double norm_of_sums(const Doubles& sums, double scale) {
  check_elements(sums, sums.size(), "sums: expected a contiguous array");
  return norm_of({sums.data(), sums.data() + sums.size()}, scale);
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
  m.def("block_sums", block_sums_of_array, py::arg("x"), py::arg("outer"), py::arg("n"), py::arg("inner"),
        py::arg("squares"));
  m.def("pair_sums", pair_block_sums, py::arg("sums").noconvert(), py::arg("outer"), py::arg("blocks"),
        py::arg("inner"));
  m.def("global_norm", norm_of_arrays, py::arg("arrays"));
  m.def("norm_of", norm_of_sums, py::arg("sums").noconvert(), py::arg("scale"));
  m.def("clipped_scale", clipped_scale, py::arg("scale"), py::arg("norm"), py::arg("clip_norm"));
}

}  // namespace samestep
