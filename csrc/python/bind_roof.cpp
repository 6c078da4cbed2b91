// Roof: NumPy's arrays as the streams of a roof.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "python/arrays.h"
#include "python/bind.h"
#include "run/roof.h"

namespace samestep {

namespace {

// A Roof and the arrays that it reads and writes.
class BoundRoof {
 public:
  using Tensors = std::vector<std::pair<py::array, std::vector<py::array>>>;

  BoundRoof(Tensors tensors, int threads)
      : tensors_(std::move(tensors)), roof_(streams_of(tensors_), threads), ways_(Roof::ways(threads)) {
    if (threads < 1) throw std::invalid_argument("threads: expected 1 or more");
  }

  std::vector<std::string> ways() const {
    std::vector<std::string> names;
    for (const Roof::Way& way : ways_) names.emplace_back(way.name);
    return names;
  }

  double seconds(size_t way, Index passes, float c) const {
    if (way >= ways_.size()) throw std::invalid_argument("way: expected the number of one of ways");
    if (passes < 1) throw std::invalid_argument("passes: expected 1 or more");
    py::gil_scoped_release others_may_run;
    return roof_.seconds(ways_[way], passes, c);
  }

 private:
  static std::vector<Roof::Streams> streams_of(const Tensors& tensors) {
    if (tensors.empty()) throw std::invalid_argument("tensors: expected one or more");
    const size_t n_written = tensors[0].second.size();
    if (n_written < 1 || n_written > kMostWritten) {
      throw std::invalid_argument("written: expected 1 to " + std::to_string(kMostWritten) + " arrays");
    }
    std::vector<Roof::Streams> out;
    for (const auto& [g, written] : tensors) {
      if (written.size() != n_written) throw std::invalid_argument("written: expected as many for every tensor");
      check_dense(g, py::dtype::of<float>(), {static_cast<Index>(g.size())}, "g");
      Roof::Streams streams{static_cast<const float*>(g.data()), {}, static_cast<Index>(g.size())};
      for (const py::array& array : written) {
        check_dense(array, py::dtype::of<float>(), {streams.size}, "written");
        streams.written.push_back(static_cast<float*>(py::array(array).mutable_data()));
      }
      out.push_back(std::move(streams));
    }
    return out;
  }

  Tensors tensors_;
  Roof roof_;
  std::vector<Roof::Way> ways_;
};

}  // namespace

void bind_roof(py::module_& m) {
  py::class_<BoundRoof>(m, "Roof")
      .def(py::init<BoundRoof::Tensors, int>(), py::arg("tensors"), py::arg("threads"))
      .def("seconds", &BoundRoof::seconds, py::arg("way"), py::arg("passes") = 1, py::arg("c") = 0.0f)
      .def_property_readonly("ways", &BoundRoof::ways);
}

}  // namespace samestep
