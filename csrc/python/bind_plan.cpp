// Plan: NumPy's arrays and the rule that steps them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "isa/dispatch.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/mse.h"
#include "python/plan_arguments.h"
#include "python/step_guard.h"
#include "python/written.h"
#include "run/plan.h"

namespace samestep {

namespace {

// A Plan and the arrays that it writes. backends/arrays.py has checked the arrays; before the first byte is written,
// step() checks that they lie where they were bound and that every gradient fits.
class BoundPlan {
 public:
  using Arrays = std::vector<py::array>;

  // tensors: of samestep.backends.face.Tensor. options: of samestep.backends.options.Options, or None.
  BoundPlan(const std::string& rule, const py::sequence& tensors, py::array_t<Index> steps, const py::object& options)
      : steps_(std::move(steps)) {
    int row = find_rule(rule);
    n_states_ = active_isa().rules[row].n_states;
    check_steps(steps_, tensors.size());
    std::vector<Tensor> bound;
    for (py::handle tensor : tensors) bound.push_back(bind_tensor(tensor));
    written_.sort();
    plan_.emplace(row, std::move(bound), steps_.mutable_data());
    plan_->options() = options_of(options);
  }

  void set_weight_decay(std::vector<double> weight_decay) {
    StepGuard alone(stepping_);
    if (static_cast<int>(weight_decay.size()) != plan_->n_groups()) {
      throw std::invalid_argument("weight_decay: expected one for every group");
    }
    plan_->options().weight_decay = std::move(weight_decay);
  }

  double norm() const { return norm_; }

  // Of a step that returned kMismatched: tensor, kind (0: its gradient, then what it writes), element, and its bits as
  // they were stepped and as they were computed again.
  py::tuple mismatch() {
    StepGuard alone(stepping_);
    const Mismatch& m = plan_->mismatch();
    return py::make_tuple(m.tensor, m.kind, m.element, m.stepped, m.again);
  }

  // (elements of a work item, threads, seconds of its trials, whether it is kept), the default first; none while
  // another thread steps.
  py::list trials() {
    py::list found;
    try {
      StepGuard alone(stepping_);
      const Tuner& tuner = plan_->tuner();
      for (int i = 0; i < static_cast<int>(tuner.trials().size()); ++i) {
        const auto& [setting, seconds] = tuner.trials()[i];
        found.append(py::make_tuple(setting.largest_item, setting.threads, seconds, i == tuner.kept()));
      }
    } catch (const std::runtime_error&) {
    }
    return found;
  }

  void keep(int setting) {
    StepGuard alone(stepping_);
    if (setting < 0 || setting >= static_cast<int>(plan_->tuner().trials().size())) {
      throw std::invalid_argument("setting: expected the index of one of trials");
    }
    plan_->keep(setting);
  }

  Index step(py::handle grads, const std::vector<double>& hyper, double scale, const py::object& sums, Index checks) {
    StepGuard alone(stepping_);
    check_hyper(*plan_, hyper);
    const BlockSums recorded = block_sums_of(sums, plan_->tensors().size());
    py::object held = py::reinterpret_steal<py::object>(PySequence_Tuple(grads.ptr()));
    if (!held) throw py::error_already_set();
    Index status = accept_gradients(held);
    if (status != kAccepted) return status;
    std::optional<py::gil_scoped_release> others_may_run;
    if (size_ >= kReleaseInterpreter) others_may_run.emplace();
    const Outcome outcome = plan_->step(hyper.data(), scale, recorded, checks);
    norm_ = plan_->norm();
    switch (outcome) {
      case Outcome::nonfinite:
        return kNonfinite;
      case Outcome::mismatched:
        return kMismatched;
      default:
        return kStepped;
    }
  }

  // Makes `steps` steps along the gradient of the trainer's problem.
  Index train(BoundTrainer& bound, const std::vector<double>& hyper, Index steps) {
    StepGuard alone(stepping_);
    StepGuard alone_there(bound.stepping(), BoundTrainer::kInside);
    check_hyper(*plan_, hyper);
    Trainer& trainer = bound.trainer();
    const std::vector<Tensor>& tensors = plan_->tensors();
    if (tensors.size() != 1 || tensors[0].storage != as_is || tensors[0].type != trainer.problem().type() ||
        tensors[0].size != trainer.problem().p()) {
      throw std::invalid_argument("trainer: expected a plan of one array like the problem's weights");
    }
    if (any_has_moved()) return kMoved;
    py::gil_scoped_release others_may_run;
    trainer.run(*plan_, hyper.data(), steps);
    norm_ = plan_->norm();
    return kStepped;
  }

 private:
  Tensor bind_tensor(py::handle given) {
    const auto w = given.attr("w").cast<py::array>();
    const auto states = given.attr("states").cast<Arrays>();
    const Storage storage = storage_of(w);
    const bool is_float = storage != as_is || w.dtype().equal(py::dtype::of<float>());
    if ((!is_float && !w.dtype().equal(py::dtype::of<double>())) || !has_flags(w, kInPlace)) {
      throw std::invalid_argument("params: expected writeable, aligned float32, float64 or 16-bit arrays");
    }
    if (static_cast<int>(states.size()) != n_states_) {
      throw std::invalid_argument("states: expected one of each for every parameter");
    }
    Tensor tensor{is_float ? float32 : float64, static_cast<Index>(w.size()), raw(w).data, {}, nullptr};
    tensor.storage = storage;
    tensor.stores_states = storage != as_is && n_states_ > 0 && states[0].dtype().equal(w.dtype());
    tensor.group = given.attr("group").cast<int>();
    if (tensor.group < 0) throw std::invalid_argument("group: expected a number from 0 on");
    tensor.first = given.attr("first").cast<Index>();
    if (tensor.first < 0 || tensor.first % kSumBlock != 0) {
      throw std::invalid_argument("first: expected a multiple of 1024");
    }
    size_ += tensor.size;
    params_.emplace_back(w);
    written_.add(raw(w).data, w.nbytes());
    const py::dtype working = tensor.type == float32 ? py::dtype::of<float>() : py::dtype::of<double>();
    for (int s = 0; s < n_states_; ++s) {
      tensor.states[s] = bind_stored(states[s], tensor.stores_states ? w.dtype() : working, "states");
    }
    if (py::object ema = given.attr("ema"); !ema.is_none()) tensor.ema = bind_stored(ema, working, "ema");
    if (py::object master = given.attr("master"); !master.is_none()) {
      if (storage == as_is) throw std::invalid_argument("master: expected a 16-bit parameter");
      tensor.master = bind_stored(master, working, "master");
    }
    if (py::object low = given.attr("low"); !low.is_none()) {
      if (storage != bfloat16) throw std::invalid_argument("low: expected a bfloat16 parameter");
      tensor.low = bind_stored(low, py::dtype::of<std::uint16_t>(), "low");
    }
    if (py::object copy = given.attr("copy"); !copy.is_none()) {
      if (tensor.type != float32) throw std::invalid_argument("copy: expected a float32 parameter");
      tensor.copy_storage = storage_of(copy);
      if (tensor.copy_storage == as_is) throw std::invalid_argument("copy: expected a 16-bit array");
      tensor.copy = bind_stored(copy, copy.attr("dtype"), "copy");
    }
    return tensor;
  }

  // Binds an array that has the last parameter's layout and is written with it; returns its address.
  void* bind_stored(const py::array& array, const py::dtype& dtype, const char* name) {
    if (!array.dtype().equal(dtype) || !params_.back().walks_with(array, array.itemsize()) ||
        !has_flags(array, kInPlace)) {
      throw std::invalid_argument(std::string(name) + ": expected an array like the parameter");
    }
    stored_.emplace_back(array);
    written_.add(raw(array).data, array.nbytes());
    return raw(array).data;
  }

  bool any_has_moved() const {
    const auto has_moved = [](const BoundArray& array) { return array.has_moved(); };
    return std::any_of(params_.begin(), params_.end(), has_moved) ||
           std::any_of(stored_.begin(), stored_.end(), has_moved);
  }

  // Hands the gradients to the plan. Returns kAccepted, kMoved or the first gradient that does not fit.
  Index accept_gradients(py::handle grads) {
    std::vector<Tensor>& tensors = plan_->tensors();
    if (PyTuple_GET_SIZE(grads.ptr()) != static_cast<py::ssize_t>(tensors.size())) {
      throw std::invalid_argument("grads: expected one for every parameter");
    }
    const Options& options = plan_->options();
    const int gradient_flags = options.zero_grads ? kInPlace : kAligned;
    in_order_.clear();
    if (any_has_moved()) return kMoved;
    for (size_t i = 0; i < tensors.size(); ++i) {
      Tensor& tensor = tensors[i];
      py::handle g = PyTuple_GET_ITEM(grads.ptr(), i);
      if (g.is_none()) {
        tensor.g = nullptr;
        continue;
      }
      if (!params_[i].takes_gradient(g) || !has_flags(g, gradient_flags)) return i;
      if (!written_.admits(i, raw(g).data, gradient_bytes(tensor))) return i;
      tensor.g = raw(g).data;
      tensor.g_in_order = nullptr;
      if (options.clip_norm < kNoLimit && !has_flags(g, py::array::c_style)) {
        in_order_.push_back(py::array::ensure(g, py::array::c_style));
        tensor.g_in_order = in_order_.back().data();
      }
    }
    return options.zero_grads ? find_gradient_given_twice() : kAccepted;
  }

  // The number of a gradient that overlaps another one, or kAccepted: with zero_grads, it would be read for one
  // parameter after it was set to zero for another.
  Index find_gradient_given_twice() {
    std::vector<std::pair<Range, Index>> grads;
    const std::vector<Tensor>& tensors = plan_->tensors();
    for (Index i = 0; i < static_cast<Index>(tensors.size()); ++i) {
      const char* begin = static_cast<const char*>(tensors[i].g);
      const Index bytes = gradient_bytes(tensors[i]);
      if (begin != nullptr && bytes > 0) grads.push_back({{begin, begin + bytes}, i});
    }
    std::sort(grads.begin(), grads.end());
    for (size_t k = 1; k < grads.size(); ++k) {
      if (grads[k].first.begin < grads[k - 1].first.end) return grads[k].second;
    }
    return kAccepted;
  }

  py::array_t<Index> steps_;
  int n_states_ = 0;
  Index size_ = 0;
  std::vector<BoundArray> params_;
  std::vector<BoundArray> stored_;  // what a step writes with them
  Arrays in_order_;                 // copies of gradients that lie in another order than C's
  Written written_;                 // the memory of both, disjoint
  std::optional<Plan> plan_;        // constructed once the tensors are bound
  std::atomic<double> norm_{std::numeric_limits<double>::quiet_NaN()};  // of its last step, for who is not inside
  StepGuard::Flag stepping_{StepGuard::kNobody};
};

}  // namespace

void bind_plan(py::module_& m) {
  py::class_<BoundPlan>(m, "Plan")
      .def(py::init<const std::string&, const py::sequence&, py::array_t<Index>, const py::object&>(), py::arg("rule"),
           py::arg("tensors"), py::arg("steps").noconvert(), py::arg("options") = py::none())
      .def_property_readonly("trials", &BoundPlan::trials)
      .def("keep", &BoundPlan::keep, py::arg("setting"))
      .def("step", &BoundPlan::step, py::arg("grads"), py::arg("hyper"), py::arg("scale") = 1.0,
           py::arg("sums") = py::none(), py::arg("checks") = 0)
      .def_property_readonly("mismatch", &BoundPlan::mismatch)
      .def("set_weight_decay", &BoundPlan::set_weight_decay, py::arg("weight_decay"))
      .def_property_readonly("norm", &BoundPlan::norm)
      .def("train", &BoundPlan::train, py::arg("trainer"), py::arg("hyper"), py::arg("steps"));
}

}  // namespace samestep
