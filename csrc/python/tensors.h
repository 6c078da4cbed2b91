// The tensors of one call of a function that checks its arguments itself, as operands.h does with arrays. Where one
// does not fit, it returns None, with nothing written, and the Python around it tells why or makes a tensor that does.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "isa/kernels.h"
#include "python/dlpack.h"

namespace samestep {

namespace py = pybind11;

// Those that are read, all of the type of the first, and new ones.
class Tensors {
 public:
  explicit Tensors(const py::object& first) : first_(first) {
    const dlpack::View view = look(first);
    constexpr std::uint8_t kFloat = 2;
    dtype_ = view.dtype;
    type = dtype_.bits == 32 ? float32 : float64;
    fits = fits && dtype_.code == kFloat && (dtype_.bits == 32 || dtype_.bits == 64);
  }

  // (..., columns), of any strides by which the axes before the last are one.
  Matrix rows(const py::object& tensor) {
    const dlpack::View view = read(tensor);
    const int last = view.n_axes - 1;
    fits = fits && last >= 0;
    if (!fits) return none();
    Index rows = 1, stride = 0;
    for (int d = last - 1; d >= 0; --d) {
      if (view.shape[d] == 1) continue;
      if (rows == 1) stride = view.strides[d];
      fits = fits && view.strides[d] == stride * rows;
      rows *= view.shape[d];
    }
    fits = fits && rows > 0 && view.shape[last] > 0;
    if (rows == 1) stride = view.shape[last];
    return {view.data + view.byte_offset, rows, view.shape[last], stride, view.strides[last]};
  }
  Matrix matrix(const py::object& tensor) {
    const Matrix found = rows(tensor);
    fits = fits && look(tensor).n_axes == 2;
    return found;
  }
  const void* vector(const py::object& tensor, Index n) {
    const dlpack::View view = read(tensor);
    fits = fits && view.n_axes == 1 && view.shape[0] == n && (n == 1 || view.strides[0] == 1);
    return view.data + view.byte_offset;
  }

  // (n), int64, each from 0 to columns - 1.
  const Index* labels(const py::object& tensor, Index n, Index columns) {
    const dlpack::View view = look(tensor);
    constexpr std::uint8_t kInt = 0;
    fits = fits && view.dtype.code == kInt && view.dtype.bits == 64 && view.n_axes == 1 && view.shape[0] == n &&
           (n == 1 || view.strides[0] == 1) && is_as_it_lies(tensor, view);
    const auto* found = reinterpret_cast<const Index*>(view.data + view.byte_offset);
    for (Index i = 0; fits && i < n; ++i) fits = found[i] >= 0 && found[i] < columns;
    return found;
  }

  void expect(bool holds) { fits = fits && holds; }

  // A new tensor without gaps: its shape is `like`'s, but for the last axis; and where it lies.
  struct New {
    py::object tensor;
    char* data = nullptr;
  };
  New make(const py::object& like, Index columns) {
    const dlpack::View view = look(like);
    py::tuple shape(view.n_axes);
    for (int d = 0; d < view.n_axes; ++d) shape[d] = d + 1 < view.n_axes ? view.shape[d] : columns;
    return make(shape);
  }
  New make(const py::tuple& shape) {
    New made{first_.attr("new_empty")(shape), nullptr};
    const dlpack::View view = look(made.tensor);
    if (!(view.dtype == dtype_)) throw std::runtime_error("new_empty: expected a tensor of the same type");
    made.data = view.data + view.byte_offset;
    return made;
  }

  Type type = float32;
  bool fits = true;

 private:
  // Whether the memory holds the elements: not where torch negates them when they are read, or knows them to be 0.
  static bool is_as_it_lies(const py::object& tensor, const dlpack::View& view) {
    const auto address = reinterpret_cast<std::uintptr_t>(view.data + view.byte_offset);
    return view.data != nullptr && address % (view.dtype.bits / 8) == 0 && !tensor.attr("is_neg")().cast<bool>();
  }
  static Matrix none() { return {nullptr, 0, 0, 0, 0}; }

  dlpack::View read(const py::object& tensor) {
    const dlpack::View view = look(tensor);
    fits = fits && view.dtype == dtype_ && is_as_it_lies(tensor, view);
    return view;
  }

  // What the tensor's own C function says. The shape and the strides live as long as the tensor. It has an error for
  // sparse, nested and quantized ones.
  dlpack::View look(const py::object& tensor) {
    dlpack::View view{};
    if (dlpack::exchange_of(py::type::of(tensor))->describe(tensor.ptr(), &view) != 0) {
      PyErr_Clear();
      fits = false;
    }
    fits = fits && view.device_type == dlpack::kCpu && view.dtype.lanes == 1;
    return view;
  }

  py::object first_;
  dlpack::View::Type dtype_;
};

}  // namespace samestep
