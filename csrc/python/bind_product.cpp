// The linear layer: forward and backward. A call checks all of its arguments itself, which for a small product takes as
// long as the product. Where one does not fit, it returns None, with nothing written, and layers/linear.py tells why.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <initializer_list>

#include "python/arrays.h"
#include "python/bind.h"
#include "run/jobs.h"

namespace samestep {

namespace {

// The arrays of one call, of the dtype of the first: what is read, and what is written.
class Operands {
 public:
  explicit Operands(py::handle first) {
    if (!is_plain_array(first)) return;
    dtype_ = py::reinterpret_borrow<py::object>(raw(first).descr);
    type = is(py::dtype::of<float>()) ? float32 : float64;
    fits = type == float32 || is(py::dtype::of<double>());
  }

  // Any strides.
  Matrix matrix(py::handle a) {
    if (!reads(a, 2, kAligned)) return {};
    const auto& now = raw(a);
    const Index size = bytes_of(type);
    return {now.data, now.dimensions[0], now.dimensions[1], now.strides[0] / size, now.strides[1] / size};
  }
  const void* vector(py::handle a, Index n) {
    fits = reads(a, 1, kContiguous) && raw(a).dimensions[0] == n;
    return fits ? raw(a).data : nullptr;
  }

  // An array of this shape without gaps, which is written; made anew for None, which costs nothing before the rest
  // fits.
  void written(py::object& a, std::initializer_list<py::ssize_t> shape) {
    if (!fits) return;
    if (a.is_none()) {
      a = py::array(py::reinterpret_borrow<py::dtype>(dtype_), shape);
      return;
    }
    fits = has_type(a, int(shape.size()), kContiguous | kInPlace) &&
           std::equal(shape.begin(), shape.end(), raw(a).dimensions) && is_apart(a, read_, n_read_) &&
           is_apart(a, written_, n_written_);
    if (fits) written_[n_written_++] = range_of(a);
  }

  void expect(bool holds) { fits = fits && holds; }

  Type type = float32;
  bool fits = false;

 private:
  struct Range {
    const char *begin, *end;
  };

  bool is(const py::dtype& expected) const { return dtype_.is(expected) || dtype_.equal(expected); }
  bool has_type(py::handle a, int axes, int flags) const {
    return is_plain_array(a) && (raw(a).descr == dtype_.ptr() || dtype_.equal(py::handle(raw(a).descr))) &&
           raw(a).nd == axes && has_flags(a, flags);
  }
  bool reads(py::handle a, int axes, int flags) {
    fits = fits && has_type(a, axes, flags);
    if (fits) read_[n_read_++] = range_of(a);
    return fits;
  }

  // The bytes from an array's first to its last element.
  static Range range_of(py::handle a) {
    const auto& now = raw(a);
    const char *begin = now.data, *end = begin;
    for (int d = 0; d < now.nd; ++d) {
      if (now.dimensions[d] == 0) return {begin, begin};
      const py::ssize_t span = (now.dimensions[d] - 1) * now.strides[d];
      (span < 0 ? begin : end) += span;
    }
    return {begin, end + py::reinterpret_borrow<py::array>(a).itemsize()};
  }
  static bool is_apart(py::handle a, const Range* others, int n) {
    const Range own = range_of(a);
    return std::none_of(others, others + n,
                        [&](const Range& other) { return own.begin < other.end && other.begin < own.end; });
  }

  py::object dtype_;
  Range read_[4], written_[3];
  int n_read_ = 0, n_written_ = 0;
};

py::object linear(py::handle x, py::handle w, py::handle bias, py::handle relu, py::object out) {
  Operands operands(x);
  const Matrix a = operands.matrix(x), b = operands.matrix(w);
  operands.expect(a.columns == b.rows && (relu.ptr() == Py_True || relu.ptr() == Py_False));
  const void* added = bias.is_none() ? nullptr : operands.vector(bias, b.columns);
  operands.written(out, {a.rows, b.columns});
  if (!operands.fits) return py::none();
  Product job = product_of(a, b, raw(out).data);
  job.bias = added, job.relu = relu.ptr() == Py_True;
  {
    py::gil_scoped_release others_may_run;
    run_product(operands.type, job);
  }
  return out;
}

py::object linear_backward(py::handle dy, py::handle x, py::handle w, py::handle y, bool input_gradient, py::object dx,
                           py::object dw, py::object dbias) {
  Operands operands(dy);
  LinearBackward job{operands.matrix(dy), {}, operands.matrix(x), operands.matrix(w), nullptr, nullptr, nullptr};
  if (!y.is_none()) job.y = operands.matrix(y);
  const Index rows = job.dy.rows, columns = job.dy.columns, inputs = job.x.columns;
  operands.expect(job.x.rows == rows && job.w.rows == inputs && job.w.columns == columns);
  operands.expect(y.is_none() || (job.y.rows == rows && job.y.columns == columns));
  if (input_gradient) operands.written(dx, {rows, inputs});
  operands.written(dw, {inputs, columns});
  operands.written(dbias, {columns});
  if (!operands.fits) return py::none();
  job.dx = input_gradient ? raw(dx).data : nullptr, job.dw = raw(dw).data, job.dbias = raw(dbias).data;
  {
    py::gil_scoped_release others_may_run;
    run_linear_backward(operands.type, job);
  }
  return py::make_tuple(input_gradient ? dx : py::object(py::none()), dw, dbias);
}

}  // namespace

void bind_product(py::module_& m) {
  m.def("linear", linear);
  m.def("linear_backward", linear_backward);
}

}  // namespace samestep
