// The functions of one value.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>

#include "isa/dispatch.h"
#include "python/bind.h"
#include "python/operands.h"
#include "python/step_guard.h"
#include "run/jobs.h"

namespace samestep {

namespace {

// `out`, or a new array, with the row's function of x.
py::object map_array(int row, py::handle x, py::object out) {
  Operands operands(x);
  const void* from = operands.block(x);
  if (operands.fits) operands.written(out, raw(x).dimensions, raw(x).nd, from);
  if (!operands.fits) return py::none();
  const Index n = py::reinterpret_borrow<py::array>(x).size();
  void* to = raw(out).data;
  std::optional<py::gil_scoped_release> others_may_run;
  if (n >= kReleaseInterpreter) others_may_run.emplace();
  map_function(row, operands.type, from, n, to);
  return out;
}

}  // namespace

void bind_functions(py::module_& m) {
  for (int row = 0; row < active_isa().n_functions; ++row) {
    m.def(active_isa().functions[row].name, [row](py::handle x, py::object out) { return map_array(row, x, out); });
  }
}

}  // namespace samestep
