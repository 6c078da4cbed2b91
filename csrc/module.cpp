// The extension module: checks what Python hands in, finds the row, releases the interpreter. No arithmetic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dispatch.h"
#include "jobs.h"
#include "plan.h"
#include "self_check.h"
#include "threads.h"
#include "train.h"

namespace py = pybind11;
using namespace samestep;

namespace {

// Below this many elements a step is over before another thread could have taken the interpreter.
constexpr Index kReleaseInterpreter = 16384;

const auto& raw(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

// A subclass may hide something, such as a mask: optimizer.py looks at it.
bool is_plain_array(py::handle object) { return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

bool same_dtype(py::handle a, py::handle b) {
  if (raw(a).descr == raw(b).descr) return true;
  auto da = py::reinterpret_borrow<py::array>(a).dtype(), db = py::reinterpret_borrow<py::array>(b).dtype();
  return da.equal(db);
}

// Same shape, and the same place in memory for the same index: one flat loop walks both.
bool same_layout(py::handle a, py::handle b) {
  const auto &ra = raw(a), &rb = raw(b);
  if (ra.nd != rb.nd) return false;
  bool same_strides = true, is_empty = false;
  for (int d = 0; d < ra.nd; ++d) {
    if (ra.dimensions[d] != rb.dimensions[d]) return false;
    is_empty = is_empty || ra.dimensions[d] == 0;
    same_strides = same_strides && (ra.strides[d] == rb.strides[d] || ra.dimensions[d] <= 1);
  }
  return same_strides || is_empty;
}

Index size_of(py::handle array) {
  Index size = 1;
  for (int d = 0; d < raw(array).nd; ++d) size *= raw(array).dimensions[d];
  return size;
}

bool has_flags(py::handle array, int flags) { return (raw(array).flags & flags) == flags; }

constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
constexpr int kInPlace = kAligned | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

int find_rule(const std::string& name) {
  const Isa& isa = active_isa();
  for (int i = 0; i < isa.n_rules + isa.n_roofs; ++i) {
    if (name == isa.rules[i].name) return i;
  }
  throw std::invalid_argument("rule: got '" + name + "', expected one of rules()");
}

Type type_of(const py::array& array) {
  if (array.dtype().equal(py::dtype::of<float>())) return float32;
  if (array.dtype().equal(py::dtype::of<double>())) return float64;
  throw std::invalid_argument("expected native float32 or float64 arrays");
}

// Arrays that are read as one block: of one dtype, C order, aligned.
void check_dense(const py::array& array, const py::dtype& dtype, const std::vector<Index>& shape, const char* name) {
  bool fits = array.dtype().equal(dtype) && array.ndim() == static_cast<py::ssize_t>(shape.size()) &&
              has_flags(array, kAligned | py::array::c_style);
  for (size_t d = 0; fits && d < shape.size(); ++d) fits = array.shape(d) == shape[d];
  if (!fits)
    throw std::invalid_argument(std::string(name) + ": expected an aligned C array of the right dtype and shape");
}

// A mean squared error and its arrays, which come checked from problems.py.
class BoundMse {
 public:
  BoundMse(const py::array& Phi, const py::array& y, double factor, bool per_row)
      : Phi_(Phi),
        y_(y),
        problem_(type_of(Phi), Phi.data(), y.data(), Phi.ndim() == 2 ? Phi.shape(1) : 0, {factor, per_row}) {
    if (Phi.ndim() != 2 || Phi.size() == 0) throw std::invalid_argument("Phi: expected a matrix that is not empty");
    dtype_ = problem_.type() == float32 ? py::dtype::of<float>() : py::dtype::of<double>();
    check_dense(Phi, dtype_, {Phi.shape(0), Phi.shape(1)}, "Phi");
    check_dense(y, dtype_, {Phi.shape(0)}, "y");
  }

  // Writes residuals and gradient where they are wanted and returns the loss.
  double evaluate(const py::array& w, const std::optional<py::array_t<Index>>& rows, const std::optional<py::array>& r,
                  const std::optional<py::array>& g) const {
    check_dense(w, dtype_, {problem_.p()}, "w");
    Batch batch{nullptr, size()};
    if (rows) {
      check_dense(*rows, py::dtype::of<Index>(), {rows->ndim() == 1 ? rows->shape(0) : -1}, "rows");
      batch = {rows->data(), rows->shape(0)};
      for (Index i = 0; i < batch.count; ++i) {
        if (batch.rows[i] < 0 || batch.rows[i] >= size()) throw py::index_error("rows: no such row");
      }
    }
    if (r) check_dense(*r, dtype_, {batch.count}, "r");
    if (g) check_dense(*g, dtype_, {problem_.p()}, "g");
    void* to_r = r ? py::array(*r).mutable_data() : nullptr;
    void* to_g = g ? py::array(*g).mutable_data() : nullptr;
    MseProblem mine = problem_;  // with sums of its own: calls may come from several threads
    if (batch.count * problem_.p() < kReleaseInterpreter) return mine.evaluate(w.data(), batch, to_r, to_g);
    py::gil_scoped_release others_may_run;
    return mine.evaluate(w.data(), batch, to_r, to_g);
  }

  Index size() const { return Phi_.shape(0); }
  const MseProblem& problem() const { return problem_; }

 private:
  py::array Phi_, y_;
  MseProblem problem_;
  py::dtype dtype_;
};

Sampling sampling_of(const std::string& name) {
  if (name == "full") return Sampling::full;
  if (name == "shuffle") return Sampling::shuffle;
  if (name == "with_replacement") return Sampling::with_replacement;
  throw std::invalid_argument("sampling: got '" + name + "'");
}

// A Trainer and the problem whose arrays it reads.
class BoundTrainer {
 public:
  BoundTrainer(py::object problem, const std::string& sampling, Index batch_size, std::uint64_t seed)
      : held_(std::move(problem)), trainer_(make(held_.cast<const BoundMse&>(), sampling, batch_size, seed)) {}

  Trainer& trainer() { return trainer_; }

 private:
  static Trainer make(const BoundMse& mse, const std::string& sampling, Index batch_size, std::uint64_t seed) {
    if (batch_size < 1) throw std::invalid_argument("batch_size: expected 1 or more");
    return Trainer(mse.problem(), Batches(sampling_of(sampling), mse.size(), batch_size, seed));
  }

  py::object held_;
  Trainer trainer_;
};

// A Plan and the arrays it writes to. The arrays come checked from arrays.py; step() sees to it that they are still
// where they were and that every gradient fits, before the first byte is written.
class BoundPlan {
 public:
  static constexpr Index kStepped = -1, kMoved = -2;  // else: the first gradient to be looked at more closely

  using Arrays = std::vector<py::array>;

  BoundPlan(const std::string& rule, const Arrays& params, const std::vector<Arrays>& states, py::array_t<Index> steps)
      : steps_(std::move(steps)) {
    int row = find_rule(rule);
    n_states_ = active_isa().rules[row].n_states;
    bool complete = static_cast<int>(states.size()) == n_states_ && steps_.size() == py::ssize_t(params.size() + 1);
    for (const Arrays& state : states) complete = complete && state.size() == params.size();
    if (!complete)
      throw std::invalid_argument("states, steps: expected one of each for every parameter, and one more count");
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < params.size(); ++i) tensors.push_back(bind(params[i], i, states));
    std::sort(written_.begin(), written_.end());
    accepted_.resize(tensors.size());
    plan_.emplace(row, std::move(tensors), steps_.mutable_data());
  }

  Index step(py::handle grads, const std::vector<double>& hyper) {
    Stepping alone(*this);
    check(hyper);
    py::object held = py::reinterpret_steal<py::object>(PySequence_Tuple(grads.ptr()));
    if (!held) throw py::error_already_set();
    Index status = take(held);
    if (status != kStepped) return status;
    if (size_ < kReleaseInterpreter) {
      plan_->step(hyper.data());
    } else {
      py::gil_scoped_release others_may_run;
      plan_->step(hyper.data());
    }
    return kStepped;
  }

  // So many steps along the gradient of the trainer's problem.
  Index train(BoundTrainer& bound, const std::vector<double>& hyper, Index steps) {
    Stepping alone(*this);
    check(hyper);
    Trainer& trainer = bound.trainer();
    const std::vector<Tensor>& tensors = plan_->tensors();
    if (tensors.size() != 1 || tensors[0].type != trainer.problem().type() ||
        tensors[0].size != trainer.problem().p()) {
      throw std::invalid_argument("trainer: expected a plan of one array like the problem's weights");
    }
    for (size_t a = 0; a < arrays_.size(); ++a) {
      if (!is_there(arrays_[a], a == 0 ? tensors[0].w : tensors[0].states[a - 1], tensors[0].size)) return kMoved;
    }
    py::gil_scoped_release others_may_run;
    trainer.run(*plan_, hyper.data(), steps);
    return kStepped;
  }

 private:
  // Held while a step is made.
  struct Stepping {
    explicit Stepping(BoundPlan& plan) : flag(plan.stepping_) {
      int nobody = kNobody;
      if (flag.compare_exchange_strong(nobody, fork_generation())) return;
      if (nobody == fork_generation()) throw std::runtime_error("another thread is inside step() of this optimizer");
      flag = kNobody;
      throw std::runtime_error(
          "this process was forked while another thread was inside step() of this optimizer: here its parameters and "
          "state are half stepped; restore both (load_state_dict for the state) before the next step");
    }
    ~Stepping() { flag = kNobody; }
    static constexpr int kNobody = -1;
    std::atomic<int>& flag;  // the generation of the process whose thread is at it
  };

  void check(const std::vector<double>& hyper) const {
    if (static_cast<int>(hyper.size()) != active_isa().rules[plan_->rule()].n_hyper) {
      throw std::invalid_argument("hyper: wrong number of values");
    }
  }

  struct Range {
    const char *begin, *end;
    bool operator<(const Range& other) const { return begin < other.begin; }
  };

  Tensor bind(const py::array& w, size_t i, const std::vector<Arrays>& states) {
    bool is_float = w.dtype().equal(py::dtype::of<float>());
    if ((!is_float && !w.dtype().equal(py::dtype::of<double>())) || !has_flags(w, kInPlace)) {
      throw std::invalid_argument("params: expected writeable, aligned float32 or float64 arrays");
    }
    Tensor tensor{is_float ? float32 : float64, static_cast<Index>(w.size()), raw(w).data, {}, nullptr};
    size_ += tensor.size;
    add_written(w);
    for (int s = 0; s < n_states_; ++s) {
      const py::array& state = states[s][i];
      if (!same_dtype(state, w) || !same_layout(state, w) || !has_flags(state, kInPlace)) {
        throw std::invalid_argument("states: expected arrays like the parameters");
      }
      tensor.states[s] = raw(state).data;
      add_written(state);
    }
    return tensor;
  }

  void add_written(const py::array& array) {
    arrays_.push_back(array);
    if (array.nbytes() > 0) written_.push_back({raw(array).data, raw(array).data + array.nbytes()});
  }

  static bool is_there(const py::array& array, const void* data, Index size) {
    return raw(array).data == data && size_of(array) == size && has_flags(array, kInPlace);
  }

  // Enters the gradients into the plan, or says what is in the way.
  Index take(py::handle grads) {
    std::vector<Tensor>& tensors = plan_->tensors();
    if (PyTuple_GET_SIZE(grads.ptr()) != static_cast<py::ssize_t>(tensors.size())) {
      throw std::invalid_argument("grads: expected one for every parameter");
    }
    for (size_t i = 0, a = 0; i < tensors.size(); ++i) {
      Tensor& tensor = tensors[i];
      py::handle w = arrays_[a];
      if (!is_there(arrays_[a++], tensor.w, tensor.size)) return kMoved;
      for (int s = 0; s < n_states_; ++s) {
        if (!is_there(arrays_[a++], tensor.states[s], tensor.size)) return kMoved;
      }
      py::handle g = PyTuple_GET_ITEM(grads.ptr(), i);
      if (g.is_none()) {
        tensor.g = nullptr;
        continue;
      }
      if (!is_plain_array(g) || !same_dtype(g, w) || !same_layout(g, w) || !has_flags(g, kAligned)) return i;
      if (raw(g).data != accepted_[i]) {
        if (is_written(raw(g).data, tensor.size * (tensor.type == float32 ? 4 : 8))) return i;
        accepted_[i] = raw(g).data;
      }
      tensor.g = raw(g).data;
    }
    return kStepped;
  }

  bool is_written(const char* begin, Index bytes) const {
    auto after = std::upper_bound(written_.begin(), written_.end(), Range{begin, nullptr});
    if (after != written_.end() && after->begin < begin + bytes) return true;
    return after != written_.begin() && bytes > 0 && std::prev(after)->end > begin;
  }

  py::array_t<Index> steps_;
  int n_states_ = 0;
  Index size_ = 0;
  Arrays arrays_;                      // parameter, its states, next parameter ...
  std::vector<Range> written_;         // what a step writes, in order of address; disjoint
  std::vector<const char*> accepted_;  // where each gradient was when it was last held against them
  std::optional<Plan> plan_;           // made once the tensors are known
  std::atomic<int> stepping_{Stepping::kNobody};
};

using Doubles = py::array_t<double, py::array::c_style>;

constexpr int kContiguous = kAligned | py::array::c_style;

// x as (outer, n, inner): the sums over n, in the order of memory.
Doubles sum_of_array(const py::array& x, Index outer, Index n, Index inner) {
  if (!has_flags(x, kContiguous) || outer * n * inner != x.size()) {
    throw std::invalid_argument("x: expected a contiguous array of outer*n*inner elements");
  }
  Type type = type_of(x);
  Doubles out(outer * inner);
  double* to = out.mutable_data();
  py::gil_scoped_release others_may_run;
  canonical_sum(type, values, x.data(), outer, n, inner, to);
  return out;
}

double norm_of_arrays(const std::vector<py::array>& arrays) {
  std::vector<Run> runs;
  for (const py::array& array : arrays) {
    if (!has_flags(array, kContiguous)) throw std::invalid_argument("arrays: expected contiguous ones");
    runs.push_back({type_of(array), array.data(), static_cast<Index>(array.size())});
  }
  py::gil_scoped_release others_may_run;
  return global_norm(runs);
}

using Array = py::array;
using Sizes = std::tuple<Index, Index, Index>;

// The arrays of one batch norm, as it is put together: of one type, in C order, as large as its sizes say.
class BatchNormArguments {
 public:
  BatchNormArguments(const Array& x, Sizes sizes, bool channels_last) : type_(type_of(x)) {
    std::tie(job.samples, job.channels, job.positions) = sizes;
    job.channels_last = channels_last;
  }

  const void* values(const Array& a) const { return check(a, type_, a.size(), all(), kContiguous); }
  void* out(const Array& a) const { return check(a, type_, a.size(), all(), kContiguous | kInPlace); }
  void* channels(const Array& a) const { return check(a, type_, a.size(), job.channels, kContiguous); }
  double* doubles(const Array& a) const {
    return static_cast<double*>(check(a, float64, a.size(), job.channels, kContiguous | kInPlace));
  }

  void run(Direction direction, bool relu) const {
    py::gil_scoped_release others_may_run;
    run_batchnorm(type_, direction, relu, job);
  }

  BatchNorm job{};

 private:
  Index all() const { return job.samples * job.channels * job.positions; }

  static void* check(const Array& a, Type type, Index size, Index expected, int flags) {
    if (type_of(a) != type || size != expected || !has_flags(a, flags)) {
      throw std::invalid_argument("expected contiguous arrays of one type and of the given sizes");
    }
    return raw(a).data;
  }

  Type type_;
};

void batchnorm_forward(const Array& x, const Array& gamma, const Array& beta, const Array& out, const Array& mean,
                       const Array& inv, const Array& mean64, const Array& var64, Sizes sizes, bool channels_last,
                       bool relu, double eps) {
  BatchNormArguments a(x, sizes, channels_last);
  a.job.x = a.values(x), a.job.gamma = a.channels(gamma), a.job.beta = a.channels(beta), a.job.out = a.out(out);
  a.job.mean = a.channels(mean), a.job.inv = a.channels(inv);
  a.job.mean64 = a.doubles(mean64), a.job.var64 = a.doubles(var64), a.job.eps = eps;
  a.run(forward, relu);
}

void batchnorm_backward(const Array& dy, const Array& x, const Array& gamma, const Array& beta, const Array& mean,
                        const Array& inv, const Array& out, const Array& dgamma, const Array& dbeta, Sizes sizes,
                        bool channels_last, bool relu) {
  BatchNormArguments a(x, sizes, channels_last);
  a.job.dy = a.values(dy), a.job.x = a.values(x), a.job.gamma = a.channels(gamma), a.job.beta = a.channels(beta);
  a.job.mean = a.channels(mean), a.job.inv = a.channels(inv), a.job.out = a.out(out);
  a.job.dgamma = a.channels(dgamma), a.job.dbeta = a.channels(dbeta);
  a.run(backward, relu);
}

void batchnorm_inference(const Array& x, const Array& gamma, const Array& beta, const Array& running_mean,
                         const Array& running_var, const Array& out, Sizes sizes, bool channels_last, bool relu,
                         double eps) {
  BatchNormArguments a(x, sizes, channels_last);
  a.job.x = a.values(x), a.job.gamma = a.channels(gamma), a.job.beta = a.channels(beta), a.job.out = a.out(out);
  a.job.mean = a.channels(running_mean), a.job.var = a.channels(running_var), a.job.eps = eps;
  a.run(inference, relu);
}

void update_running_of(const Array& running_mean, const Array& running_var, const Doubles& mean64, const Doubles& var64,
                       Index values, double momentum, Index batches) {
  BatchNormArguments a(running_mean, Sizes(1, running_mean.size(), 1), false);
  update_running(type_of(running_mean), a.doubles(mean64), a.doubles(var64), a.job.channels, values, momentum, batches,
                 a.out(running_mean), a.out(running_var));
}

std::vector<std::string> words(const char* text) {
  std::vector<std::string> out;
  for (const char* p = text; *p != '\0';) {
    size_t n = std::strcspn(p, " ");
    out.emplace_back(p, n);
    p += n + std::strspn(p + n, " ");
  }
  return out;
}

py::list rules() {
  py::list out;
  for (int i = 0; i < active_isa().n_rules; ++i) {
    const Rule& rule = active_isa().rules[i];
    out.append(
        py::make_tuple(rule.name, py::tuple(py::cast(words(rule.hyper))), py::tuple(py::cast(words(rule.states)))));
  }
  return out;
}

std::vector<std::string> isas() {
  const Isa* tables[8];
  int n = available_isas(tables, 8);
  std::vector<std::string> names;
  for (int i = 0; i < n; ++i) names.emplace_back(tables[i]->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The compiled kernels; use them through the package.";
  m.attr("compile_flags") = SAMESTEP_FLAGS;
  m.def("rules", rules, "(name, hyper-parameters, states) of every rule");
  m.def("isas", isas, "instruction sets this machine can run, best first");
  m.def("get_isa", [] { return active_isa().name; });
  m.def("set_isa", [](const std::string& name) { return set_isa(name.c_str()); }, "False: unknown or not supported");
  m.def("withdraw_isa", [](const std::string& name) { withdraw_isa(name.c_str()); });
  m.def("self_check", self_check, "(kernel, hash of what it makes of a few numbers), for the table in use");
  m.def("vector_bytes", [] { return active_isa().vector_bytes; }, "what the table in use was compiled for");
  m.def("get_num_threads", get_num_threads);
  m.def("set_num_threads", set_num_threads);
  m.def("default_num_threads", default_num_threads);
  m.def("canonical_sum", sum_of_array, py::arg("x"), py::arg("outer"), py::arg("n"), py::arg("inner"));
  m.def("global_norm", norm_of_arrays, py::arg("arrays"));
  m.def("batchnorm_forward", batchnorm_forward);
  m.def("batchnorm_backward", batchnorm_backward);
  m.def("batchnorm_inference", batchnorm_inference);
  m.def("update_running", update_running_of);
  py::class_<BoundPlan>(m, "Plan")
      .def(py::init<const std::string&, const BoundPlan::Arrays&, const std::vector<BoundPlan::Arrays>&,
                    py::array_t<Index>>(),
           py::arg("rule"), py::arg("params"), py::arg("states"), py::arg("steps").noconvert())
      .def("step", &BoundPlan::step, py::arg("grads"), py::arg("hyper"))
      .def("train", &BoundPlan::train, py::arg("trainer"), py::arg("hyper"), py::arg("steps"));
  py::class_<BoundMse>(m, "Mse")
      .def(py::init<const py::array&, const py::array&, double, bool>(), py::arg("Phi"), py::arg("y"),
           py::arg("factor"), py::arg("per_row"))
      .def("evaluate", &BoundMse::evaluate, py::arg("w"), py::arg("rows").noconvert(), py::arg("r"), py::arg("g"));
  py::class_<BoundTrainer>(m, "Trainer")
      .def(py::init<py::object, const std::string&, Index, std::uint64_t>(), py::arg("problem"), py::arg("sampling"),
           py::arg("batch_size"), py::arg("seed"));
  py::class_<Sampler>(m, "Sampler")
      .def(py::init<std::uint64_t>(), py::arg("seed"))
      .def(
          "shuffle",
          [](Sampler& sampler, Index n) {
            py::array_t<Index> order(n);
            sampler.shuffle(order.mutable_data(), n);
            return order;
          },
          py::arg("n"))
      .def(
          "draws",
          [](Sampler& sampler, Index m, Index n) {
            py::array_t<Index> out(m);
            sampler.draws(out.mutable_data(), m, n);
            return out;
          },
          py::arg("m"), py::arg("n"));
}
