// What XLA calls, as capsules for jax.ffi; none where the build had no headers of XLA.
#include <pybind11/pybind11.h>

#include "jax/calls.h"
#include "python/bind.h"

namespace samestep {

void bind_jax(py::module_& m) {
  m.def("xla_calls", [] {
    py::dict calls;
#ifdef SAMESTEP_XLA_FFI
    calls["samestep_step"] = py::capsule(xla_step());
    calls["samestep_linear"] = py::capsule(xla_linear());
    calls["samestep_linear_backward"] = py::capsule(xla_linear_backward());
    calls["samestep_batchnorm"] = py::capsule(xla_batchnorm());
    calls["samestep_batchnorm_backward"] = py::capsule(xla_batchnorm_backward());
    calls["samestep_batchnorm_inference"] = py::capsule(xla_batchnorm_inference());
#endif
    return calls;
  });
}

}  // namespace samestep
