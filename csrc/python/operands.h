// The arrays of one call of a function that checks its arguments itself, which for small arrays takes as long as the
// work. Where one does not fit, it returns None, with nothing written, and the Python around it tells why.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <initializer_list>

#include "python/arrays.h"
#include "python/written.h"

namespace samestep {

// What is read, and what is written; all of the dtype of the first.
class Operands {
 public:
  explicit Operands(py::handle first) {
    if (!is_plain_array(first)) return;
    dtype_ = py::reinterpret_borrow<py::dtype>(raw(first).descr);
    const bool is_float32 = is(py::dtype::of<float>());
    type = is_float32 ? float32 : float64;
    fits = is_float32 || is(py::dtype::of<double>());
  }

  // Any strides.
  Matrix matrix(py::handle a) {
    if (!reads(a, 2, kAligned)) return {};
    const auto& now = raw(a);
    const Index size = bytes_of(type);
    return {now.data, now.dimensions[0], now.dimensions[1], now.strides[0] / size, now.strides[1] / size};
  }
  const void* vector(py::handle a, Index n) {
    fits = reads(a, 1, kContiguous) && raw(a).dimensions[0] == n;
    return fits ? raw(a).data : nullptr;
  }
  // The first one, of any shape in C order.
  const void* block(py::handle a) { return fits && reads(a, raw(a).nd, kContiguous) ? raw(a).data : nullptr; }

  // An array of this shape without gaps, which is written; made anew for None, which costs nothing before the rest
  // fits. It shares no memory with those before, but may lie where `may_be` does.
  void written(py::object& a, std::initializer_list<py::ssize_t> shape) {
    written(a, shape.begin(), static_cast<int>(shape.size()), nullptr);
  }
  void written(py::object& a, const py::ssize_t* shape, int axes, const void* may_be) {
    if (!fits) return;
    if (a.is_none()) {
      a = py::array(dtype_, py::array::ShapeContainer(shape, shape + axes));
      return;
    }
    fits = has_type(a, axes, kContiguous | kInPlace) && std::equal(shape, shape + axes, raw(a).dimensions) &&
           (raw(a).data == may_be || is_apart(a));
    if (fits) add(a);
  }

  void expect(bool holds) { fits = fits && holds; }

  Type type = float32;
  bool fits = false;

 private:
  bool is(const py::dtype& expected) const { return dtype_.is(expected) || dtype_.equal(expected); }
  bool has_type(py::handle a, int axes, int flags) const {
    return is_plain_array(a) && has_dtype(a, dtype_) && raw(a).nd == axes && has_flags(a, flags);
  }
  bool reads(py::handle a, int axes, int flags) {
    fits = fits && has_type(a, axes, flags);
    if (fits) add(a);
    return fits;
  }
  void add(py::handle a) { taken_[n_taken_++] = range_of(a); }

  // The bytes from an array's first to its last element.
  static Range range_of(py::handle a) {
    const auto& now = raw(a);
    const char *begin = now.data, *end = begin;
    for (int d = 0; d < now.nd; ++d) {
      if (now.dimensions[d] == 0) return {begin, begin};
      const py::ssize_t span = (now.dimensions[d] - 1) * now.strides[d];
      (span < 0 ? begin : end) += span;
    }
    return {begin, end + py::reinterpret_borrow<py::array>(a).itemsize()};
  }
  bool is_apart(py::handle a) const {
    const Range own = range_of(a);
    return std::none_of(taken_, taken_ + n_taken_,
                        [&](const Range& other) { return own.begin < other.end && other.begin < own.end; });
  }

  py::dtype dtype_;
  Range taken_[7];  // as many arrays as linear_backward has
  int n_taken_ = 0;
};

}  // namespace samestep
