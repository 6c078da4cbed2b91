// The layers and the loss of torch's tensors as they lie: no array is made of them, which for small ones would take
// longer than the work.
#include <pybind11/pybind11.h>

#include "isa/dispatch.h"
#include "python/bind.h"
#include "python/tensors.h"
#include "run/fp_mode.h"
#include "run/jobs.h"

namespace samestep {

namespace {

// weight: (columns, inputs), as torch keeps it.
py::object linear_of_tensors(const py::object& input, const py::object& weight, const py::object& bias, bool relu) {
  Tensors tensors(input);
  const Matrix x = tensors.rows(input), w = tensors.matrix(weight);
  tensors.expect(x.columns == w.columns);
  const void* added = bias.is_none() ? nullptr : tensors.vector(bias, w.rows);
  if (!tensors.fits) return py::none();
  const auto y = tensors.make(input, w.rows);
  Product job = product_of(x, transposed(w), y.data);
  job.bias = added, job.relu = relu;
  {
    py::gil_scoped_release others_may_run;
    run_product(tensors.type, job);
  }
  return y.tensor;
}

// The gradients by input, weight and bias; None for one that is not wanted. input is None where the weight's gradient
// is not wanted, weight where the input's is not, y where no ReLU followed.
py::object linear_backward_of_tensors(const py::object& grad, const py::object& input, const py::object& weight,
                                      const py::object& y, bool by_bias) {
  Tensors tensors(grad);
  LinearBackward job{};
  job.dy = tensors.rows(grad);
  if (!y.is_none()) job.y = tensors.rows(y);
  if (!input.is_none()) job.x = tensors.rows(input);
  if (!weight.is_none()) job.w = transposed(tensors.matrix(weight));
  tensors.expect(y.is_none() || (job.y.rows == job.dy.rows && job.y.columns == job.dy.columns));
  tensors.expect(input.is_none() || job.x.rows == job.dy.rows);
  tensors.expect(weight.is_none() || job.w.columns == job.dy.columns);
  if (!tensors.fits) return py::none();
  Tensors::New dx, dw, dbias;
  if (!weight.is_none()) dx = tensors.make(grad, job.w.rows);
  if (!input.is_none()) dw = tensors.make(py::make_tuple(job.dy.columns, job.x.columns));
  if (by_bias) dbias = tensors.make(py::make_tuple(job.dy.columns));
  job.dx = dx.data, job.dw_turned = dw.data, job.dbias = dbias.data;
  {
    py::gil_scoped_release others_may_run;
    run_linear_backward(tensors.type, job);
  }
  const auto or_none = [](const Tensors::New& made) { return made.tensor ? made.tensor : py::none(); };
  return py::make_tuple(or_none(dx), or_none(dw), or_none(dbias));
}

// The loss, and its gradient by the logits.
py::object softmax_cross_entropy_of_tensors(const py::object& input, const py::object& target) {
  Tensors tensors(input);
  const Matrix z = tensors.matrix(input);
  tensors.expect(z.column_stride == 1 && z.row_stride == z.columns);
  const Index* labels = tensors.labels(target, z.rows, z.columns);
  if (!tensors.fits) return py::none();
  const auto dz = tensors.make(input, z.columns), loss = tensors.make(py::tuple());
  {
    py::gil_scoped_release others_may_run;
    const double value = softmax_cross_entropy(tensors.type, {z.data, labels, z.rows, z.columns, nullptr, dz.data});
    FpMode mode;
    active_isa().round_sums[tensors.type](&value, 1, loss.data);
  }
  return py::make_tuple(loss.tensor, dz.tensor);
}

}  // namespace

void bind_tensors(py::module_& m) {
  m.def("linear_of_tensors", linear_of_tensors);
  m.def("linear_backward_of_tensors", linear_backward_of_tensors);
  m.def("softmax_cross_entropy_of_tensors", softmax_cross_entropy_of_tensors);
}

}  // namespace samestep
