// AddressedPlan: memory by address and the rule that steps it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "isa/dispatch.h"
#include "python/bind.h"
#include "python/plan_arguments.h"
#include "python/step_guard.h"
#include "python/written.h"
#include "run/plan.h"

namespace samestep {

namespace {

// A Plan over memory given by address. Its caller keeps the memory alive and checks it before every step: see torch/.
class AddressedPlan {
 public:
  using Address = std::uintptr_t;
  // dtype of parameter and gradient, elements, parameter, states; of 16 bits the states are in float32
  using Memory = std::tuple<std::string, Index, Address, std::vector<Address>>;
  // A parameter that is no block of memory: its number in `memory`, its address, whether it is negated there, its shape
  // and strides, and the strides of the block at the address in `memory`. The block is stepped in its place: the
  // parameter is copied into it before a step, and back after.
  using Strided = std::tuple<size_t, Address, bool, std::vector<Index>, std::vector<Index>, std::vector<Index>>;

  // Where a parameter's step count lies, and its type by NumPy's letter: d, f or i for float64, float32 or int64.
  using Count = std::tuple<Address, char>;

  AddressedPlan(const std::string& rule, const std::vector<Memory>& memory, py::array_t<Index> steps,
                const py::object& options, std::vector<Strided> strided, std::vector<Count> counts)
      : steps_(std::move(steps)), strided_(std::move(strided)), counts_(std::move(counts)) {
    int row = find_rule(rule);
    size_t n_states = active_isa().rules[row].n_states;
    check_steps(steps_, memory.size());
    std::vector<Tensor> tensors;
    for (const auto& [dtype, size, w, states] : memory) {
      if (states.size() != n_states) throw std::invalid_argument("memory: wrong number of states");
      tensors.push_back({dtype == "float64" ? float64 : float32, size, at(w), {}, nullptr});
      Tensor& tensor = tensors.back();
      tensor.storage = dtype == "bfloat16" ? bfloat16 : dtype == "float16" ? float16 : as_is;
      written_.add(at(w), gradient_bytes(tensor));
      for (size_t s = 0; s < n_states; ++s) {
        tensor.states[s] = at(states[s]);
        written_.add(at(states[s]), size * bytes_of(tensor.type));
      }
      size_ += size;
    }
    for (const auto& [i, own, is_negated, shape, strides, block_strides] : strided_) {
      Index size = 1;
      for (Index extent : shape) size *= extent;
      if (i >= tensors.size() || size != tensors[i].size || strides.size() != shape.size() ||
          block_strides.size() != shape.size()) {
        throw std::invalid_argument("strided: expected parameters of `memory`, and a stride for each axis");
      }
    }
    if (!counts_.empty() && counts_.size() != tensors.size()) {
      throw std::invalid_argument("counts: expected one for every parameter, or none");
    }
    written_.sort();
    plan_.emplace(row, std::move(tensors), steps_.mutable_data());
    plan_->options() = options_of(options);
  }

  // Whether no two of the parameters and states share memory.
  bool is_disjoint() const { return written_.is_disjoint(); }

  using Plans = std::vector<AddressedPlan*>;

  // A step of all plans, in one call: nothing of Python runs between the first byte that is written and the last call
  // of `then`, so that an interrupt finds all of it done or none. None: stepped. Else the numbers of a plan and of its
  // gradient that lies where a step writes, and nothing was written.
  // grads: of each plan a list of addresses or None. then: functions that run no Python, such as methods of C types.
  // sums: of each plan an array (tensors, kinds) for the sums of fingerprints, or None.
  static py::object step_together(const Plans& plans, const std::vector<py::list>& grads,
                                  const std::vector<std::vector<double>>& hyper,
                                  const std::vector<double>& weight_decay, const py::list& then,
                                  const std::optional<std::vector<py::object>>& sums) {
    const size_t n = plans.size();
    if (grads.size() != n || hyper.size() != n || weight_decay.size() != n || (sums && sums->size() != n)) {
      throw std::invalid_argument("grads, hyper, weight_decay, sums: expected one for every plan");
    }
    std::vector<BlockSums> recorded(n);
    std::deque<StepGuard> alone;  // of which none is ever copied
    Index size = 0;
    for (size_t p = 0; p < n; ++p) {
      alone.emplace_back(plans[p]->stepping_);
      check_hyper(*plans[p]->plan_, hyper[p]);
      size += plans[p]->size_;
      if (sums) recorded[p] = block_sums_of((*sums)[p], plans[p]->plan_->tensors().size());
      plans[p]->read_counts();
      const Index refused = plans[p]->accept_gradients(grads[p]);
      if (refused != kAccepted) return py::make_tuple(p, refused);
    }
    const auto step = [&] {
      for (size_t p = 0; p < n; ++p) plans[p]->make_step(hyper[p], weight_decay[p], recorded[p]);
    };
    if (size < kReleaseInterpreter) {
      step();
    } else {
      py::gil_scoped_release others_may_run;
      step();
    }
    std::optional<py::error_already_set> first;
    for (py::handle function : then) {
      try {
        function();
      } catch (py::error_already_set& error) {  // out of memory: the others still have to be called
        if (!first) first = std::move(error);
      }
    }
    if (first) throw std::move(*first);
    return py::none();
  }

 private:
  static constexpr const char* kNothing = "";
  static constexpr double kLargestCount = 9007199254740992.0;  // 2^53: float64 holds every whole number up to it

  static void* at(Address address) { return reinterpret_cast<void*>(address); }

  // Hands the gradients to the plan. Returns kAccepted or the first gradient that lies where a step writes.
  Index accept_gradients(const py::list& grads) {
    std::vector<Tensor>& tensors = plan_->tensors();
    if (grads.size() != tensors.size()) throw std::invalid_argument("grads: expected one for every parameter");
    for (size_t i = 0; i < tensors.size(); ++i) {
      Tensor& tensor = tensors[i];
      py::handle address = PyList_GET_ITEM(grads.ptr(), i);
      tensor.g = nullptr;
      if (address.is_none()) continue;
      const char* g = static_cast<const char*>(at(PyLong_AsUnsignedLongLong(address.ptr())));
      if (PyErr_Occurred() != nullptr) throw py::error_already_set();
      if (!written_.admits(i, g, gradient_bytes(tensor))) return i;
      tensor.g = tensor.size == 0 ? kNothing : g;  // an empty tensor has no address, but it counts its steps
    }
    return kAccepted;
  }

  // Steps of other processes count as well, and so does what the user writes there.
  void read_counts() {
    Index* steps = steps_.mutable_data();
    for (const Count& count : counts_) {
      const Address address = std::get<0>(count);
      if (std::get<1>(count) == 'i') {
        *steps++ = read<Index>(address);
        continue;
      }
      const double number = std::get<1>(count) == 'f' ? read<float>(address) : read<double>(address);
      if (!(std::abs(number) <= kLargestCount)) {
        throw std::invalid_argument("state['step']: got " + std::to_string(number) +
                                    ", expected a number that is at most 2^53");
      }
      *steps++ = static_cast<Index>(number);
    }
  }

  void write_counts() {
    const Index* steps = steps_.data();
    for (size_t i = 0; i < counts_.size(); ++i) {
      if (plan_->tensors()[i].g == nullptr) continue;
      const auto& [address, type] = counts_[i];
      if (type == 'i') {
        write(address, steps[i]);
      } else if (type == 'f') {
        write(address, static_cast<float>(steps[i]));
      } else {
        write(address, static_cast<double>(steps[i]));
      }
    }
  }

  template <class T>
  static T read(Address address) {
    T value;
    std::memcpy(&value, at(address), sizeof value);
    return value;
  }

  template <class T>
  static void write(Address address, T value) {
    std::memcpy(at(address), &value, sizeof value);
  }

  // A step with the gradients that were accepted.
  void make_step(const std::vector<double>& hyper, double weight_decay, BlockSums sums) {
    plan_->options().weight_decay = {weight_decay};
    for (const Strided& parameter : strided_) copy_parameter(parameter, true);
    plan_->step(hyper.data(), 1.0, sums);
    for (const Strided& parameter : strided_) copy_parameter(parameter, false);
    write_counts();
  }

  // Between a parameter's own memory and the block that is stepped.
  void copy_parameter(const Strided& parameter, bool into_block) {
    const Tensor& tensor = plan_->tensors()[std::get<0>(parameter)];
    if (tensor.g == nullptr || tensor.size == 0) return;
    if (tensor.storage != as_is) {
      copy_as<std::uint16_t>(parameter, tensor.w, into_block);
    } else if (tensor.type == float32) {
      copy_as<std::uint32_t>(parameter, tensor.w, into_block);
    } else {
      copy_as<std::uint64_t>(parameter, tensor.w, into_block);
    }
  }

  template <class Bits>
  static void copy_as(const Strided& parameter, void* block, bool into_block) {
    const auto& [i, own, is_negated, shape, strides, block_strides] = parameter;
    const Bits flipped = is_negated ? Bits(1) << (8 * sizeof(Bits) - 1) : 0;  // the sign
    char *from = static_cast<char*>(at(own)), *to = static_cast<char*>(block);
    const Index *from_strides = strides.data(), *to_strides = block_strides.data();
    if (!into_block) {
      std::swap(from, to);
      std::swap(from_strides, to_strides);
    }
    copy_axes<Bits>(shape, 0, from, from_strides, to, to_strides, flipped);
  }

  template <class Bits>
  static void copy_axes(const std::vector<Index>& shape, size_t d, const char* from, const Index* from_strides,
                        char* to, const Index* to_strides, Bits flipped) {
    if (d == shape.size()) {
      Bits bits;
      std::memcpy(&bits, from, sizeof bits);  // it may lie at any byte
      bits ^= flipped;
      std::memcpy(to, &bits, sizeof bits);
      return;
    }
    const Index size = sizeof(Bits);
    for (Index k = 0; k < shape[d]; ++k) {
      copy_axes<Bits>(shape, d + 1, from + k * from_strides[d] * size, from_strides, to + k * to_strides[d] * size,
                      to_strides, flipped);
    }
  }

  py::array_t<Index> steps_;
  std::vector<Strided> strided_;
  std::vector<Count> counts_;  // none: `steps_` is all that counts
  Index size_ = 0;
  Written written_;
  std::optional<Plan> plan_;  // constructed once the tensors are known
  StepGuard::Flag stepping_{StepGuard::kNobody};
};

}  // namespace

void bind_addressed_plan(py::module_& m) {
  py::class_<AddressedPlan>(m, "AddressedPlan")
      .def(py::init<const std::string&, const std::vector<AddressedPlan::Memory>&, py::array_t<Index>,
                    const py::object&, std::vector<AddressedPlan::Strided>, std::vector<AddressedPlan::Count>>(),
           py::arg("rule"), py::arg("memory"), py::arg("steps").noconvert(), py::arg("options"),
           py::arg("strided") = std::vector<AddressedPlan::Strided>(),
           py::arg("counts") = std::vector<AddressedPlan::Count>())
      .def_property_readonly("is_disjoint", &AddressedPlan::is_disjoint)
      .def_static("step_together", &AddressedPlan::step_together, py::arg("plans"), py::arg("grads"), py::arg("hyper"),
                  py::arg("weight_decay"), py::arg("then"), py::arg("sums") = py::none());
}

}  // namespace samestep
