// Layouts: how torch's tensors lie in memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "isa/kernels.h"
#include "python/bind.h"
#include "python/walks.h"

namespace samestep {

namespace {

// How DLPack lets C look at a tensor: https://dmlc.github.io/dlpack, version 1, DLPackExchangeAPI and DLTensor.
namespace dlpack {

constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;
constexpr std::uint8_t kComplex = 5;

struct View {
  char* data;
  std::int32_t device_type, device_id, n_axes;
  struct Type {
    std::uint8_t code, bits;
    std::uint16_t lanes;
    bool operator==(const Type& o) const { return code == o.code && bits == o.bits && lanes == o.lanes; }
  } dtype;
  const Index *shape, *strides;  // in elements
  std::uint64_t byte_offset;
};

struct Exchange {
  std::uint32_t major, minor;
  const Exchange* previous;
  void *allocate, *from_tensor, *to_tensor;  // of no use here
  int (*look)(void* tensor, View* out);      // may be null
  void* current_stream;
};

}  // namespace dlpack

// How tensors lay in memory when they were bound, all of it: what kernels walk between two steps. Torch's tensors can
// be given other memory, shapes, strides and types at any time, at the same address, too.
class Layouts {
 public:
  static constexpr Index kInPlace = -1;

  // Tensors in the memory of the host, that lie still meanwhile.
  explicit Layouts(const py::list& tensors) {
    layouts_.resize(tensors.size());
    if (tensors.empty()) return;
    type_ = py::type::of(tensors[0]);
    exchange_ = exchange_of(type_);
    for (size_t i = 0; i < layouts_.size(); ++i) {
      if (!look(tensors[i], &layouts_[i])) throw std::invalid_argument("tensors: expected ones in the host's memory");
    }
  }

  // The first tensor that does not lie where and as it lay: kInPlace, if there is none.
  Index find_moved(const py::list& tensors) const {
    check_count(tensors);
    Layout now;
    for (size_t i = 0; i < layouts_.size(); ++i) {
      const Layout& bound = layouts_[i];
      if (!look(PyList_GET_ITEM(tensors.ptr(), i), &now) || now.data != bound.data || !walks(now, bound) ||
          now.is_negated != bound.is_negated) {
        return i;
      }
    }
    return kInPlace;
  }

  // Where tensors lie that have the bound ones' layouts, and their storages, which keep that memory alive, whatever
  // becomes of the tensors. None has no address. That of a tensor which cannot be walked with the bound one is -1.
  std::pair<py::list, py::list> take(const py::list& tensors) const {
    check_count(tensors);
    static PyObject* const storage_of = PyUnicode_InternFromString("untyped_storage");
    py::list addresses(layouts_.size()), storages;
    Layout now;
    for (size_t i = 0; i < layouts_.size(); ++i) {
      PyObject* tensor = PyList_GET_ITEM(tensors.ptr(), i);
      py::object address = py::none();
      if (tensor != Py_None) {
        const bool fits = Py_TYPE(tensor) == reinterpret_cast<PyTypeObject*>(type_.ptr()) && look(tensor, &now) &&
                          walks(now, layouts_[i]) && !now.is_negated && is_aligned(now);
        if (fits) {
          auto storage = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor, storage_of));
          if (!storage) throw py::error_already_set();
          storages.append(std::move(storage));
        }
        address = fits ? py::int_(reinterpret_cast<std::uintptr_t>(now.data)) : py::int_(-1);
      }
      PyList_SET_ITEM(addresses.ptr(), i, address.release().ptr());
    }
    return {std::move(addresses), std::move(storages)};
  }

 private:
  struct Layout {
    const char* data;
    dlpack::View::Type dtype;
    bool is_negated, is_conjugate;  // lazily: what is read is not what lies there
    Index size;
    std::vector<Index> shape, strides;
  };

  static const dlpack::Exchange* exchange_of(const py::object& type) {
    const char* name = "dlpack_exchange_api";
    auto capsule = py::object(type.attr("__dlpack_c_exchange_api__"));
    auto* exchange = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule.ptr(), name));
    if (exchange == nullptr) throw py::error_already_set();
    while (exchange != nullptr && exchange->major != dlpack::kMajor) exchange = exchange->previous;
    if (exchange == nullptr || exchange->look == nullptr) {
      throw std::runtime_error("tensors: expected a type that offers DLPackExchangeAPI, version 1, with DLTensor");
    }
    return exchange;
  }

  void check_count(const py::list& tensors) const {
    if (tensors.size() != layouts_.size()) throw std::invalid_argument("tensors: expected one for every bound one");
  }

  // False: it has no memory of the host's that could be looked at.
  bool look(py::handle tensor, Layout* out) const {
    static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
    static PyObject* const is_conj = PyUnicode_InternFromString("is_conj");
    dlpack::View view;
    if (exchange_->look(tensor.ptr(), &view) != 0) {
      PyErr_Clear();
      return false;
    }
    if (view.device_type != dlpack::kCpu) return false;
    out->data = view.data + view.byte_offset;
    out->dtype = view.dtype;
    out->shape.assign(view.shape, view.shape + view.n_axes);
    out->strides.assign(view.strides, view.strides + view.n_axes);
    out->size = 1;
    for (Index extent : out->shape) out->size *= extent;
    out->is_negated = !has_neighbours(*out) && answers(tensor, is_neg);
    out->is_conjugate = view.dtype.code == dlpack::kComplex && answers(tensor, is_conj);
    return out->data != nullptr || out->size == 0;
  }

  // Whether elements lie side by side. What is negated lazily are imaginary parts: between two of them lies a real one.
  static bool has_neighbours(const Layout& a) {
    for (size_t d = 0; d < a.shape.size(); ++d) {
      if (a.strides[d] == 1 && a.shape[d] > 1) return true;
    }
    return false;
  }

  static bool answers(py::handle tensor, PyObject* question) {
    auto answer = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), question));
    if (!answer) throw py::error_already_set();
    return answer.ptr() == Py_True;
  }

  static Axes<Index> axes_of(const Layout& a) {
    return {static_cast<int>(a.shape.size()), a.shape.data(), a.strides.data(), 1};
  }

  // Whether one flat loop walks both.
  static bool walks(const Layout& a, const Layout& b) {
    if (!(a.dtype == b.dtype) || a.is_conjugate != b.is_conjugate) return false;
    return walk_together(axes_of(a), axes_of(b));
  }

  static bool is_aligned(const Layout& a) {
    return reinterpret_cast<std::uintptr_t>(a.data) % (a.dtype.bits / 8 * a.dtype.lanes) == 0;
  }

  std::vector<Layout> layouts_;
  py::object type_;
  const dlpack::Exchange* exchange_ = nullptr;
};

}  // namespace

void bind_layouts(py::module_& m) {
  py::class_<Layouts>(m, "Layouts")
      .def(py::init<const py::list&>(), py::arg("tensors"))
      .def("find_moved", &Layouts::find_moved, py::arg("tensors"))
      .def("take", &Layouts::take, py::arg("tensors"));
}

}  // namespace samestep
