// Layouts: addresses, shapes and strides of torch's tensors, read without a Python call per tensor where possible.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "isa/kernels.h"
#include "python/bind.h"
#include "python/dlpack.h"
#include "python/walks.h"

namespace samestep {

namespace {

// Names of attributes, made with the module. The first call that makes one in a static variable of its own would keep
// other threads waiting for the variable, and these would not let go of the interpreter.
struct {
  PyObject *untyped_storage, *grad, *is_neg, *is_conj;
} names;

// An item of a list that other threads may change meanwhile: without a global interpreter lock a borrowed one could be
// gone before it is looked at.
py::object item_of(const py::list& list, size_t i) {
#ifdef Py_GIL_DISABLED
  auto item = py::reinterpret_steal<py::object>(PyList_GetItemRef(list.ptr(), i));
  if (!item) throw py::error_already_set();
  return item;
#else
  return py::reinterpret_borrow<py::object>(PyList_GET_ITEM(list.ptr(), i));
#endif
}

// Asks tensors for their storages. Most are of one type after the other, whose method is looked up once.
class Storages {
 public:
  py::object operator()(PyObject* tensor) {
    if (Py_TYPE(tensor) != type_) {
      type_ = Py_TYPE(tensor);
      method_ = py::reinterpret_steal<py::object>(
          PyObject_GetAttr(reinterpret_cast<PyObject*>(type_), names.untyped_storage));
      if (!method_) throw py::error_already_set();
    }
    auto storage = py::reinterpret_steal<py::object>(PyObject_Vectorcall(method_.ptr(), &tensor, 1, nullptr));
    if (!storage) throw py::error_already_set();
    return storage;
  }

 private:
  PyTypeObject* type_ = nullptr;
  py::object method_;
};

// The layouts of tensors when they were bound, which kernels walk between two steps. Torch can give a tensor other
// memory, shape, strides and dtype at any time, even at the same address.
class Layouts {
 public:
  static constexpr Index kInPlace = -1;

  // tensors: in the host's memory. No other thread may change them during this call. The last n_counts of them are step
  // counts, which are not asked whether torch negates them lazily.
  explicit Layouts(const py::list& tensors, size_t n_counts) {
    layouts_.resize(tensors.size());
    if (tensors.empty()) return;
    type_ = py::type::of(tensors[0]);
    exchange_ = dlpack::exchange_of(type_);
    for (size_t i = 0; i < layouts_.size(); ++i) {
      if (!read_layout(tensors[i], &layouts_[i]))
        throw std::invalid_argument("tensors: expected ones in the host's memory");
      if (i + n_counts >= layouts_.size()) layouts_[i].is_plain = true;
    }
  }

  // The number of the first tensor whose address or layout is not the bound one; kInPlace if there is none.
  Index find_moved(const py::list& tensors) const {
    check_count(tensors);
    Layout now;
    for (size_t i = 0; i < layouts_.size(); ++i) {
      if (!is_in_place(item_of(tensors, i).ptr(), layouts_[i], &now)) return i;
    }
    return kInPlace;
  }

  // The storages of tensors that all lie where and as they were bound; they keep that memory alive, whatever becomes of
  // the tensors. None, if one has moved.
  py::object hold(const py::list& tensors) const {
    check_count(tensors);
    py::list storages(layouts_.size());
    Storages storage_of;
    Layout now;
    for (size_t i = 0; i < layouts_.size(); ++i) {
      const py::object tensor = item_of(tensors, i);
      if (!is_in_place(tensor.ptr(), layouts_[i], &now)) return py::none();
      PyList_SET_ITEM(storages.ptr(), i, storage_of(tensor.ptr()).release().ptr());
    }
    return std::move(storages);
  }

  // (addresses, storages) of other tensors, such as gradients. The storages keep the memory alive, whatever becomes of
  // the tensors. The address of None is None; that of a tensor whose layout is not the bound one's is -1.
  std::pair<py::list, py::list> get_addresses(const py::list& tensors) const {
    check_count(tensors);
    Found found(layouts_.size());
    for (size_t i = 0; i < layouts_.size(); ++i) find(item_of(tensors, i).ptr(), i, &found);
    return {std::move(found.addresses), std::move(found.storages)};
  }

  // The gradients of parameters, and what get_addresses() says of them.
  std::tuple<py::list, py::list, py::list> get_gradients(const py::list& params) const {
    check_count(params);
    py::list gradients(layouts_.size());
    Found found(layouts_.size());
    for (size_t i = 0; i < layouts_.size(); ++i) {
      const py::object param = item_of(params, i);
      PyObject* gradient = PyObject_GetAttr(param.ptr(), names.grad);
      if (gradient == nullptr) throw py::error_already_set();
      PyList_SET_ITEM(gradients.ptr(), i, gradient);
      find(gradient, i, &found);
    }
    return {std::move(gradients), std::move(found.addresses), std::move(found.storages)};
  }

 private:
  struct Layout {
    const char* data;
    dlpack::View::Type dtype;
    bool is_negated, is_conjugate;  // lazily: torch reads other values than those in memory
    bool is_plain;                  // can be neither
    Index size;
    std::vector<Index> shape, strides;
  };

  struct Found {
    explicit Found(size_t n) : addresses(n) {}

    py::list addresses, storages;
    Storages storage_of;
    Layout now;
  };

  void find(PyObject* tensor, size_t i, Found* found) const {
    py::object address = py::none();
    if (tensor != Py_None) {
      const char* data = nullptr;
      const bool fits = Py_TYPE(tensor) == reinterpret_cast<PyTypeObject*>(type_.ptr()) &&
                        walks_with(tensor, layouts_[i], &found->now, &data);
      if (fits) found->storages.append(found->storage_of(tensor));
      address = fits ? py::int_(reinterpret_cast<std::uintptr_t>(data)) : py::int_(-1);
    }
    PyList_SET_ITEM(found->addresses.ptr(), i, address.release().ptr());
  }

  void check_count(const py::list& tensors) const {
    if (tensors.size() != layouts_.size()) throw std::invalid_argument("tensors: expected one for every bound one");
  }

  bool is_in_place(PyObject* tensor, const Layout& bound, Layout* now) const {
    if (!PyObject_TypeCheck(tensor, reinterpret_cast<PyTypeObject*>(type_.ptr()))) return false;
    dlpack::View view;
    if (bound.is_plain && exchange_->describe(tensor, &view) == 0 && is_laid_out(view, bound) &&
        view.data + view.byte_offset == bound.data) {
      return true;
    }
    PyErr_Clear();
    return read_layout(tensor, now) && now->data == bound.data && walks(*now, bound) &&
           now->is_negated == bound.is_negated;
  }

  // Whether a kernel can walk the tensor in the place of the bound one; then where it lies.
  bool walks_with(PyObject* tensor, const Layout& bound, Layout* now, const char** data) const {
    dlpack::View view;
    if (bound.is_plain && exchange_->describe(tensor, &view) == 0 && is_laid_out(view, bound)) {
      *data = view.data + view.byte_offset;
      return *data != nullptr && is_aligned(*data, view.dtype);
    }
    PyErr_Clear();
    if (!read_layout(tensor, now) || !walks(*now, bound) || now->is_negated) return false;
    *data = now->data;
    return is_aligned(now->data, now->dtype);
  }

  // Whether dtype, shape and strides are the bound ones, which is the rule; of layouts that cannot be lazy.
  static bool is_laid_out(const dlpack::View& view, const Layout& bound) {
    const size_t n = bound.shape.size();
    bool same = view.device_type == dlpack::kCpu && view.dtype == bound.dtype && static_cast<size_t>(view.n_axes) == n;
    for (size_t d = 0; same && d < n; ++d) {
      same = view.shape[d] == bound.shape[d] && view.strides[d] == bound.strides[d];
    }
    return same;
  }

  // Reads a tensor's layout; false if its memory is not the host's.
  bool read_layout(py::handle tensor, Layout* out) const {
    dlpack::View view;
    if (exchange_->describe(tensor.ptr(), &view) != 0) {
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
    const bool is_complex = view.dtype.code == dlpack::kComplex, may_be_negated = !has_neighbours(*out);
    out->is_negated = may_be_negated && returns_true(tensor, names.is_neg);
    out->is_conjugate = is_complex && returns_true(tensor, names.is_conj);
    out->is_plain = !is_complex && !may_be_negated && out->data != nullptr;
    return out->data != nullptr || out->size == 0;
  }

  // Whether elements lie side by side; then is_neg() need not be called. Torch negates lazily only views of imaginary
  // parts, and between two of those lies a real part.
  static bool has_neighbours(const Layout& a) {
    for (size_t d = 0; d < a.shape.size(); ++d) {
      if (a.strides[d] == 1 && a.shape[d] > 1) return true;
    }
    return false;
  }

  static bool returns_true(py::handle tensor, PyObject* method) {
    auto answer = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), method));
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

  static bool is_aligned(const char* data, dlpack::View::Type dtype) {
    return reinterpret_cast<std::uintptr_t>(data) % (dtype.bits / 8 * dtype.lanes) == 0;
  }

  std::vector<Layout> layouts_;
  py::object type_;
  const dlpack::Exchange* exchange_ = nullptr;
};

// Which objects a list held, without a reference to them. Another object may have come to the address of one that is
// gone.
class Identities {
 public:
  explicit Identities(const py::list& objects) {
    for (size_t i = 0; i < objects.size(); ++i) objects_.push_back(item_of(objects, i).ptr());
  }

  bool are_of(const py::list& objects) const {
    if (objects.size() != objects_.size()) return false;
    for (size_t i = 0; i < objects_.size(); ++i) {
      if (item_of(objects, i).ptr() != objects_[i]) return false;
    }
    return true;
  }

 private:
  std::vector<const PyObject*> objects_;
};

// Where a group's states are among those of the optimizer.
class StatePlaces {
 public:
  // positions: in the list of the optimizer's states; -1 for one that is not there. names: the keys there.
  StatePlaces(std::vector<py::ssize_t> positions, py::list names)
      : positions_(std::move(positions)), names_(std::move(names)) {
    if (positions_.size() != names_.size()) throw std::invalid_argument("positions, names: expected as many of each");
  }

  // What is there in these states; None, where one of them is missing.
  py::object look_up(const py::list& states) const {
    py::list found(positions_.size());
    for (size_t k = 0; k < positions_.size(); ++k) {
      const py::object name = item_of(names_, k);
      if (positions_[k] < 0 || positions_[k] >= static_cast<py::ssize_t>(states.size())) return py::none();
      const py::object state = item_of(states, positions_[k]);
      PyObject* value = value_of(state.ptr(), name.ptr());
      if (value == nullptr) {
        const bool is_missing =
            !PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_KeyError) || PyErr_ExceptionMatches(PyExc_TypeError);
        if (!is_missing) throw py::error_already_set();  // an interrupt, of a dict's own type
        PyErr_Clear();
        return py::none();
      }
      PyList_SET_ITEM(found.ptr(), k, value);
    }
    return std::move(found);
  }

 private:
  // A new reference; nullptr, and an error or none, where there is no value.
  static PyObject* value_of(PyObject* state, PyObject* name) {
    if (!PyDict_CheckExact(state)) return PyObject_GetItem(state, name);
#ifdef Py_GIL_DISABLED
    PyObject* value;
    PyDict_GetItemRef(state, name, &value);
    return value;
#else
    return Py_XNewRef(PyDict_GetItemWithError(state, name));
#endif
  }

  std::vector<py::ssize_t> positions_;
  py::list names_;
};

// A tensor's memory as an array, which keeps the tensor alive. What torch negates or conjugates lazily is not.
py::array array_of(const py::object& tensor, const std::string& name) {
  dlpack::View view;
  if (dlpack::exchange_of(py::type::of(tensor))->describe(tensor.ptr(), &view) != 0) throw py::error_already_set();
  static constexpr const char* kKinds = "iuf??c";  // NumPy's letters, by DLPack's codes
  const Index size_of = view.dtype.bits / 8;
  if (view.device_type != dlpack::kCpu || view.dtype.code > dlpack::kComplex || kKinds[view.dtype.code] == '?' ||
      size_of == 0) {
    throw std::invalid_argument(name + ": expected a tensor of numbers that NumPy knows, in the host's memory");
  }
  Index elements = 1;
  for (int d = 0; d < view.n_axes; ++d) elements *= view.shape[d];
  if (view.data == nullptr && elements > 0) {
    throw std::invalid_argument(name + ": torch knows it to be zeros and keeps no memory for them; pass its clone()");
  }
  const char* data = view.data + view.byte_offset;
  if (reinterpret_cast<std::uintptr_t>(data) % size_of != 0) {
    throw std::invalid_argument(name + ": its memory does not lie on a multiple of " + std::to_string(size_of) +
                                " bytes; pass its clone()");
  }
  std::vector<Index> strides(view.strides, view.strides + view.n_axes);
  for (Index& stride : strides) stride *= size_of;
  return py::array(py::dtype(kKinds[view.dtype.code] + std::to_string(size_of)),
                   std::vector<Index>(view.shape, view.shape + view.n_axes), strides, data, tensor);
}

}  // namespace

void bind_layouts(py::module_& m) {
  names = {PyUnicode_InternFromString("untyped_storage"), PyUnicode_InternFromString("grad"),
           PyUnicode_InternFromString("is_neg"), PyUnicode_InternFromString("is_conj")};
  m.def("array_of", &array_of, py::arg("tensor"), py::arg("name"));
  py::class_<Identities>(m, "Identities")
      .def(py::init<const py::list&>(), py::arg("objects"))
      .def("are_of", &Identities::are_of, py::arg("objects"));
  py::class_<StatePlaces>(m, "StatePlaces")
      .def(py::init<std::vector<py::ssize_t>, py::list>(), py::arg("positions"), py::arg("names"))
      .def("look_up", &StatePlaces::look_up, py::arg("states"));
  py::class_<Layouts>(m, "Layouts")
      .def(py::init<const py::list&, size_t>(), py::arg("tensors"), py::arg("n_counts") = 0)
      .def("find_moved", &Layouts::find_moved, py::arg("tensors"))
      .def("hold", &Layouts::hold, py::arg("tensors"))
      .def("get_addresses", &Layouts::get_addresses, py::arg("tensors"))
      .def("get_gradients", &Layouts::get_gradients, py::arg("params"));
}

}  // namespace samestep
