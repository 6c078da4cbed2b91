// Convolution: forward and backward.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "python/arrays.h"
#include "python/bind.h"
#include "run/jobs.h"

namespace samestep {

namespace {

using Array = py::array;
using Given = std::optional<Array>;  // None: there is none, or it is not wanted
using Pair = std::array<Index, 2>;
using Window = std::tuple<Pair, Pair, Pair, Index>;  // stride, padding, dilation, groups

// The sizes of a convolution from the shapes of x and w, and the checks of its arrays against them.
class Arguments {
 public:
  Arguments(const Array& x, const Array& w, const Window& window) : type(type_of(x)), dtype_(x.dtype()) {
    const auto& [stride, padding, dilation, groups] = window;
    if (x.ndim() != 4 || w.ndim() != 4) throw std::invalid_argument("x, w: expected four axes");
    if (groups < 1 || w.shape(0) % groups != 0 || w.shape(1) * groups != x.shape(1))
      throw std::invalid_argument("w: expected shape (G*O, C, R, S) for x of shape (N, G*C, H, W)");
    job.samples = x.shape(0), job.groups = groups, job.channels = w.shape(1), job.outputs = w.shape(0) / groups;
    for (int a = 0; a < 2; ++a) {
      job.size[a] = x.shape(2 + a), job.kernel[a] = w.shape(2 + a);
      job.stride[a] = stride[a], job.padding[a] = padding[a], job.dilation[a] = dilation[a];
      if (stride[a] < 1 || padding[a] < 0 || dilation[a] < 1)
        throw std::invalid_argument("window: expected stride and dilation of 1 or more, padding of 0 or more");
      const Index room = job.size[a] + 2 * padding[a] - dilation[a] * (job.kernel[a] - 1) - 1;
      if (job.kernel[a] < 1 || room < 0) throw std::invalid_argument("w: its taps do not fit into the padded x");
      job.out_size[a] = room / stride[a] + 1;
    }
  }

  std::vector<Index> shape_of_x() const { return {job.samples, job.groups * job.channels, job.size[0], job.size[1]}; }
  std::vector<Index> shape_of_y() const {
    return {job.samples, job.groups * job.outputs, job.out_size[0], job.out_size[1]};
  }
  std::vector<Index> shape_of_w() const {
    return {job.groups * job.outputs, job.channels, job.kernel[0], job.kernel[1]};
  }
  std::vector<Index> shape_of_bias() const { return {job.groups * job.outputs}; }

  const void* read(const Given& a, const std::vector<Index>& shape, const char* name) const {
    if (!a) return nullptr;
    check_dense(*a, dtype_, shape, name);
    return raw(*a).data;
  }
  void* written(const Given& a, const std::vector<Index>& shape, const char* name) const {
    if (!a) return nullptr;
    check_dense(*a, dtype_, shape, name);
    if (!has_flags(*a, kInPlace)) throw std::invalid_argument(std::string(name) + ": cannot be written");
    return raw(*a).data;
  }

  Type type;
  Convolution job{};

 private:
  py::dtype dtype_;
};

void conv2d(const Array& x, const Array& w, const Given& bias, const Window& window, bool relu, const Array& out) {
  Arguments a(x, w, window);
  a.job.x = a.read(x, a.shape_of_x(), "x"), a.job.w = a.read(w, a.shape_of_w(), "w");
  a.job.bias = a.read(bias, a.shape_of_bias(), "bias");
  a.job.y = a.written(out, a.shape_of_y(), "out"), a.job.relu = relu;
  py::gil_scoped_release others_may_run;
  run_convolution(a.type, a.job);
}

void conv2d_backward(const Array& dy, const Given& x, const Given& w, const Given& y, const Window& window,
                     const Given& dx, const Given& dw, const Given& dbias) {
  if ((!x && !dx) || (!w && !dw) || (dx && !w) || (dw && !x))
    throw std::invalid_argument("x, w: expected x or dx, w or dw; w for dx, x for dw");
  Arguments a(x ? *x : *dx, w ? *w : *dw, window);
  a.job.x = a.read(x, a.shape_of_x(), "x"), a.job.w = a.read(w, a.shape_of_w(), "w");
  a.job.dy = a.read(dy, a.shape_of_y(), "dy");
  const void* result = a.read(y, a.shape_of_y(), "y");
  a.job.dx = a.written(dx, a.shape_of_x(), "dx"), a.job.dw = a.written(dw, a.shape_of_w(), "dw");
  void* sums = a.written(dbias, a.shape_of_bias(), "dbias");
  py::gil_scoped_release others_may_run;
  run_convolution_backward(a.type, a.job, result, sums);
}

}  // namespace

void bind_convolution(py::module_& m) {
  m.def("conv2d", conv2d);
  m.def("conv2d_backward", conv2d_backward);
}

}  // namespace samestep
