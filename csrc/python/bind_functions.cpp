// The functions of one value.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "isa/dispatch.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "run/jobs.h"

namespace samestep {

void bind_functions(py::module_& m) {
  for (int row = 0; row < active_isa().n_functions; ++row) {
    m.def(active_isa().functions[row].name, [row](const py::array& x, const py::array& out) {
      const Type type = type_of(x);
      const bool fits = type_of(out) == type && out.size() == x.size();
      if (!fits || !has_flags(x, kContiguous) || !has_flags(out, kContiguous | kInPlace)) {
        throw std::invalid_argument("expected contiguous arrays of one type and size");
      }
      const void* from = raw(x).data;
      void* to = raw(out).data;
      const Index n = x.size();
      py::gil_scoped_release others_may_run;
      map_function(row, type, from, n, to);
    });
  }
}

}  // namespace samestep
