// The linear layer: forward and backward.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "python/bind.h"
#include "python/operands.h"
#include "run/jobs.h"

namespace samestep {

namespace {

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
  LinearBackward job{};
  job.dy = operands.matrix(dy), job.x = operands.matrix(x), job.w = operands.matrix(w);
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
