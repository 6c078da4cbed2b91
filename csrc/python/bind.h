// The functions that add each file's part to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace samestep {

namespace py = pybind11;

void bind_isa(py::module_& m);
void bind_sums(py::module_& m);
void bind_fingerprint(py::module_& m);
void bind_leaves(py::module_& m);
void bind_batchnorm(py::module_& m);
void bind_product(py::module_& m);
void bind_convolution(py::module_& m);
void bind_functions(py::module_& m);
void bind_softmax(py::module_& m);
void bind_mse(py::module_& m);
void bind_roof(py::module_& m);
void bind_plan(py::module_& m);
void bind_layouts(py::module_& m);
void bind_tensors(py::module_& m);
void bind_addressed_plan(py::module_& m);
void bind_jax(py::module_& m);

}  // namespace samestep
