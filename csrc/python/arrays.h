// NumPy's arrays as the bindings see them: dtype, flags, and whether an array has moved since it was bound.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "isa/kernels.h"
#include "python/walks.h"

namespace samestep {

namespace py = pybind11;

// The fields of NumPy's C struct, cheaper than pybind11's accessors: every step reads them.
inline const auto& raw(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

// False for a subclass, which may hide something, such as a mask: Python checks those (backends/arrays.py).
inline bool is_plain_array(py::handle object) {
  return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_;
}

inline bool has_flags(py::handle array, int flags) { return (raw(array).flags & flags) == flags; }

// Flags: what is written in place must have kInPlace, what is read as one block kContiguous.
constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
constexpr int kInPlace = kAligned | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
constexpr int kContiguous = kAligned | py::array::c_style;

using Doubles = py::array_t<double, py::array::c_style>;

// Mostly it is the same object, which is known at once.
inline bool has_dtype(py::handle array, const py::dtype& dtype) {
  return raw(array).descr == dtype.ptr() || dtype.equal(py::handle(raw(array).descr));
}

inline Type type_of(const py::array& array) {
  if (array.dtype().equal(py::dtype::of<float>())) return float32;
  if (array.dtype().equal(py::dtype::of<double>())) return float64;
  throw std::invalid_argument("expected native float32 or float64 arrays");
}

// bfloat16 is known by its name alone: NumPy has none of its own.
inline Storage storage_of(const py::array& array) {
  if (array.itemsize() != 2) return as_is;
  const auto name = array.dtype().attr("name").cast<std::string>();
  return name == "bfloat16" ? bfloat16 : name == "float16" ? float16 : as_is;
}

// Arrays that are read as one block: of one dtype, C order, aligned.
inline void check_dense(const py::array& array, const py::dtype& dtype, const std::vector<Index>& shape,
                        const char* name) {
  bool fits = array.dtype().equal(dtype) && array.ndim() == static_cast<py::ssize_t>(shape.size()) &&
              has_flags(array, kContiguous);
  for (size_t d = 0; fits && d < shape.size(); ++d) fits = array.shape(d) == shape[d];
  if (!fits)
    throw std::invalid_argument(std::string(name) + ": expected an aligned C array of the right dtype and shape");
}

// An array, and its address, dtype, shape and strides when it was bound. All of these can be set later in NumPy, while
// kernels walk what was bound: between two steps, gradients are compared with this copy, never with the array itself.
class BoundArray {
 public:
  explicit BoundArray(const py::array& array)
      : array_(array),
        dtype_(array.dtype()),
        data_(raw(array).data),
        itemsize_(array.itemsize()),
        axes_(array.shape(), array.shape() + array.ndim()) {
    axes_.insert(axes_.end(), array.strides(), array.strides() + array.ndim());
  }

  // Whether the array has another address or layout than was bound, or cannot be written any more.
  bool has_moved() const {
    const auto& now = raw(array_);
    return now.data != data_ || now.descr != dtype_.ptr() || !has_same_axes(now) || !has_flags(array_, kInPlace);
  }

  // Whether one flat loop walks it and `other`, of elements of so many bytes.
  bool walks_with(py::handle other, Index other_itemsize) const {
    const auto& now = raw(other);
    if (itemsize_ == other_itemsize && has_same_axes(now)) return true;
    const py::ssize_t* axes = axes_.data();
    return walk_together(Axes<py::ssize_t>{now.nd, now.dimensions, now.strides, other_itemsize},
                         Axes<py::ssize_t>{n_axes(), axes, axes + n_axes(), itemsize_});
  }

  // Whether `g` can be its gradient: a plain array of the same dtype that one loop walks together with it.
  bool takes_gradient(py::handle g) const {
    return is_plain_array(g) && has_dtype(g, dtype_) && walks_with(g, itemsize_);
  }

 private:
  int n_axes() const { return static_cast<int>(axes_.size() / 2); }

  template <class Raw>
  bool has_same_axes(const Raw& now) const {
    if (now.nd != n_axes()) return false;
    const py::ssize_t* axes = axes_.data();
    for (int d = 0; d < now.nd; ++d) {
      if (now.dimensions[d] != axes[d] || now.strides[d] != axes[now.nd + d]) return false;
    }
    return true;
  }

  py::array array_;
  py::dtype dtype_;
  const void* data_;
  Index itemsize_;
  std::vector<py::ssize_t> axes_;  // the shape, then the strides in bytes
};

}  // namespace samestep
