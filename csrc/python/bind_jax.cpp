// What XLA calls, as a capsule for jax.ffi, or None where the build had no headers of XLA.
#include <pybind11/pybind11.h>

#include "jax/step.h"
#include "python/bind.h"

namespace samestep {

void bind_jax(py::module_& m) {
#ifdef SAMESTEP_XLA_FFI
  m.def("xla_step", [] { return py::capsule(xla_step()); });
#else
  m.def("xla_step", [] { return py::none(); });
#endif
}

}  // namespace samestep
