// Fingerprints of arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <stdexcept>

#include "isa/dispatch.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/step_guard.h"
#include "run/jobs.h"

namespace samestep {

namespace {

Contents contents_of(const py::array& x) {
  if (const Storage storage = storage_of(x); storage != as_is) {
    return storage == bfloat16 ? numbers_bfloat16 : numbers_float16;
  }
  if (x.dtype().equal(py::dtype::of<std::uint16_t>())) return bits16;
  return type_of(x) == float32 ? numbers32 : numbers64;
}

unsigned long long fingerprint_of(const py::array& x) {
  if (!has_flags(x, kContiguous)) throw std::invalid_argument("x: expected an aligned array in C order");
  const Contents contents = contents_of(x);
  const Index n = x.size();
  std::optional<py::gil_scoped_release> others_may_run;
  if (n >= kReleaseInterpreter) others_may_run.emplace();
  return fingerprint(contents, x.data(), n);
}

// Of block sums, and the bytes of the array that each is of, the fingerprints.
py::array_t<std::uint64_t> finish(const py::array_t<std::uint64_t, py::array::c_style>& sums,
                                  const py::array_t<std::uint64_t, py::array::c_style>& nbytes) {
  if (sums.ndim() != 2 || nbytes.ndim() != 2 || sums.shape(0) != nbytes.shape(0) || sums.shape(1) != nbytes.shape(1)) {
    throw std::invalid_argument("sums, nbytes: expected uint64 arrays of one shape (tensors, kinds)");
  }
  py::array_t<std::uint64_t> out({sums.shape(0), sums.shape(1)});
  const FingerprintKernels& kernels = active_isa().fingerprint;
  for (py::ssize_t i = 0; i < sums.size(); ++i) {
    out.mutable_data()[i] = kernels.finish(sums.data()[i], nbytes.data()[i]);
  }
  return out;
}

}  // namespace

void bind_fingerprint(py::module_& m) {
  m.def("fingerprint", fingerprint_of, py::arg("x"));
  m.def("finish_fingerprints", finish, py::arg("sums"), py::arg("nbytes"));
}

}  // namespace samestep
