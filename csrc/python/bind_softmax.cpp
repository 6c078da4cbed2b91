// Softmax with cross-entropy.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "python/arrays.h"
#include "python/bind.h"
#include "run/jobs.h"

namespace samestep {

namespace {

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

void bind_softmax(py::module_& m) { m.def("softmax_cross_entropy", softmax_of_arrays); }

}  // namespace samestep
