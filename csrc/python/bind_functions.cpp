// The functions of one value, and softmax with cross-entropy.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <vector>

#include "isa/dispatch.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "run/jobs.h"

namespace samestep {

namespace {

// Elements, for more of which other threads of Python may run meanwhile.
constexpr Index kReleased = 4096;

// Whether the two have one dtype and shape, are contiguous, and `out` can be written and is x or lies apart from it.
bool fits(const py::array& x, const py::array& out) {
  if (!out.dtype().equal(x.dtype()) || out.ndim() != x.ndim()) return false;
  if (!has_flags(out, kContiguous | kInPlace)) return false;
  for (int d = 0; d < x.ndim(); ++d) {
    if (x.shape(d) != out.shape(d)) return false;
  }
  const char *from = raw(x).data, *to = raw(out).data;
  return from == to || from + x.nbytes() <= to || to + out.nbytes() <= from;
}

// `out`, or a new array, with the row's function of x; None, and nothing is done, where an array does not fit.
py::object map_array(int row, const py::object& given, const py::object& given_out) {
  if (!is_plain_array(given) || !has_flags(given, kContiguous)) return py::none();
  const auto x = py::reinterpret_borrow<py::array>(given);
  const bool is_float32 = x.dtype().equal(py::dtype::of<float>());
  if (!is_float32 && !x.dtype().equal(py::dtype::of<double>())) return py::none();
  if (!given_out.is_none() && !(is_plain_array(given_out) && fits(x, py::reinterpret_borrow<py::array>(given_out)))) {
    return py::none();
  }
  const std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
  const py::array out =
      given_out.is_none() ? py::array(x.dtype(), shape) : py::reinterpret_borrow<py::array>(given_out);
  const void* from = raw(x).data;
  void* to = raw(out).data;
  const Index n = x.size();
  if (n > kReleased) {
    py::gil_scoped_release others_may_run;
    map_function(row, is_float32 ? float32 : float64, from, n, to);
  } else {
    map_function(row, is_float32 ? float32 : float64, from, n, to);
  }
  return out;
}

double softmax_of_arrays(const py::array& z, const py::array_t<Index>& labels, const py::array& dz) {
  if (z.ndim() != 2 || z.size() == 0) throw std::invalid_argument("z: expected rows and columns");
  const Type type = type_of(z);
  const Index rows = z.shape(0), columns = z.shape(1);
  check_dense(z, z.dtype(), {rows, columns}, "z");
  check_dense(dz, z.dtype(), {rows, columns}, "dz");
  check_dense(labels, py::dtype::of<Index>(), {rows}, "labels");
  if (!has_flags(dz, kInPlace)) throw std::invalid_argument("dz: expected a writeable array");
  const Softmax job{z.data(), labels.data(), rows, columns, nullptr, raw(dz).data};
  for (Index i = 0; i < rows; ++i) {
    if (job.labels[i] < 0 || job.labels[i] >= columns) throw std::invalid_argument("labels: expected columns of z");
  }
  py::gil_scoped_release others_may_run;
  return softmax_cross_entropy(type, job);
}

}  // namespace

void bind_functions(py::module_& m) {
  m.def("softmax_cross_entropy", softmax_of_arrays);
  for (int row = 0; row < active_isa().n_functions; ++row) {
    m.def(active_isa().functions[row].name,
          [row](const py::object& x, const py::object& out) { return map_array(row, x, out); });
  }
}

}  // namespace samestep
