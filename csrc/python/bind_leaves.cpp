// Leaves: weighed, added and averaged.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "python/arrays.h"
#include "python/bind.h"
#include "python/step_guard.h"
#include "run/jobs.h"

namespace samestep {

namespace {

void expect(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void check_run(const py::array& array, int flags, const char* name) {
  if (array.ndim() != 1 || !has_flags(array, kContiguous | flags)) {
    throw std::invalid_argument(std::string(name) + ": expected an aligned array of one axis without gaps" +
                                (flags == kInPlace ? " that can be written" : ""));
  }
}

// What `out` is may also be what is read, but they may not overlap otherwise.
void check_apart(const py::array& read, const py::array& out, bool may_be_same) {
  const char *a = raw(read).data, *b = raw(out).data;
  if (may_be_same && a == b) return;
  expect(a + read.nbytes() <= b || b + out.nbytes() <= a, "out: overlaps what is read in memory");
}

// Work on n elements, while other threads run Python where it takes long.
template <class Work>
void run_released(Index n, const Work& work) {
  std::optional<py::gil_scoped_release> others_may_run;
  if (n >= kReleaseInterpreter) others_may_run.emplace();
  work();
}

void weigh_array(const py::object& g, double weight, const py::array& out) {
  check_run(out, kInPlace, "out");
  const Type type = type_of(out);
  const Index n = out.size();
  if (g.is_none()) {
    expect(weight == 0.0, "g: got None, expected an array where the weight is not 0");
    return run_released(n, [&] { weigh_leaf(type, as_is, nullptr, weight, n, raw(out).data); });
  }
  const auto read = py::cast<py::array>(g);
  check_run(read, 0, "g");
  const Storage storage = storage_of(read);
  expect(read.size() == n, "g: expected as many elements as out has");
  expect(storage == as_is ? type_of(read) == type : type == float32,
         "g: expected the dtype of out, or 16 bits where out is float32");
  check_apart(read, out, storage == as_is);
  run_released(n, [&] { weigh_leaf(type, storage, read.data(), weight, n, raw(out).data); });
}

void add_arrays(const py::array& to, const py::array& other) {
  check_run(to, kInPlace, "to");
  check_run(other, 0, "other");
  const Type type = type_of(to);
  const Index n = to.size();
  expect(other.size() == n && type_of(other) == type, "other: expected the dtype and the number of elements of to");
  check_apart(other, to, false);
  run_released(n, [&] { add_leaves(type, other.data(), n, raw(to).data); });
}

void average_array(const py::array& total, double weight, const py::array& out) {
  check_run(total, 0, "total");
  check_run(out, kInPlace, "out");
  const Type type = type_of(total);
  const Storage storage = storage_of(out);
  const Index n = total.size();
  expect(out.size() == n, "out: expected as many elements as total has");
  expect(storage == as_is ? type_of(out) == type : type == float32,
         "out: expected the dtype of total, or 16 bits where total is float32");
  check_apart(total, out, storage == as_is);
  run_released(n, [&] { average_leaves(type, total.data(), weight, n, storage, raw(out).data); });
}

}  // namespace

void bind_leaves(py::module_& m) {
  m.def("weigh_leaf", weigh_array, py::arg("g"), py::arg("weight"), py::arg("out"));
  m.def("add_leaves", add_arrays, py::arg("to"), py::arg("other"));
  m.def("average_leaves", average_array, py::arg("total"), py::arg("weight"), py::arg("out"));
}

}  // namespace samestep
