// The extension module, one call per file. Bindings check what Python hands in, find the row of the table, release the
// interpreter. No arithmetic.
#include <pybind11/pybind11.h>

#include "python/bind.h"

namespace py = pybind11;

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled kernels; use them through the package.";
  samestep::bind_isa(m);
  samestep::bind_sums(m);
  samestep::bind_fingerprint(m);
  samestep::bind_leaves(m);
  samestep::bind_batchnorm(m);
  samestep::bind_product(m);
  samestep::bind_convolution(m);
  samestep::bind_functions(m);
  samestep::bind_softmax(m);
  samestep::bind_mse(m);  // before plans, which are trained with a Trainer
  samestep::bind_plan(m);
  samestep::bind_layouts(m);
  samestep::bind_tensors(m);
  samestep::bind_roof(m);
  samestep::bind_addressed_plan(m);
  samestep::bind_jax(m);
}
