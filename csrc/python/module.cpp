// The extension module: checks what Python hands in, finds the row, releases the interpreter. No arithmetic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
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
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/plan.h"
#include "run/self_check.h"
#include "run/threads.h"
#include "run/train.h"

namespace py = pybind11;
using namespace samestep;

namespace {

// Below this many elements a step is over before another thread could have taken the interpreter.
constexpr Index kReleaseInterpreter = 16384;

const auto& raw(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

// A subclass may hide something, such as a mask: optimizer.py looks at it.
bool is_plain_array(py::handle object) { return Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_; }

bool has_flags(py::handle array, int flags) { return (raw(array).flags & flags) == flags; }

constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
constexpr int kInPlace = kAligned | py::detail::npy_api::NPY_ARRAY_WRITEABLE_;

// An array as it lay when it was bound. Address, dtype, shape and strides of a NumPy array can all be set later, and
// kernels walk what was bound: whatever is asked between two steps is asked of this copy, never of the array itself.
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

  // Whether it still lies there, and as it did.
  bool is_there() const {
    const auto& now = raw(array_);
    return now.data == data_ && now.descr == dtype_.ptr() && has_same_axes(now) && has_flags(array_, kInPlace);
  }

  // Whether `other`, of elements of so many bytes, has the same shape, and the same place in memory for the same index,
  // counted in elements: one flat loop walks both.
  bool walks_with(py::handle other, Index other_itemsize) const {
    const auto& now = raw(other);
    if (itemsize_ == other_itemsize && has_same_axes(now)) return true;
    if (now.nd != n_axes()) return false;
    bool same_strides = true, is_empty = false;
    for (int d = 0; d < now.nd; ++d) {
      if (now.dimensions[d] != axes_[d]) return false;
      is_empty = is_empty || axes_[d] == 0;
      same_strides =
          same_strides && (now.strides[d] * itemsize_ == axes_[now.nd + d] * other_itemsize || axes_[d] <= 1);
    }
    return same_strides || is_empty;
  }

  // Whether `g` is an array of the same dtype that walks with it: what a gradient of it has to be.
  bool takes_gradient(py::handle g) const {
    if (!is_plain_array(g)) return false;
    const bool same_dtype = raw(g).descr == dtype_.ptr() || py::reinterpret_borrow<py::array>(g).dtype().equal(dtype_);
    return same_dtype && walks_with(g, itemsize_);
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

// bfloat16 is known by its name alone: NumPy has none of its own.
Storage storage_of(const py::array& array) {
  if (array.itemsize() != 2) return as_is;
  const auto name = array.dtype().attr("name").cast<std::string>();
  return name == "bfloat16" ? bfloat16 : name == "float16" ? float16 : as_is;
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
        size_(Phi.ndim() == 2 ? Phi.shape(0) : 0),
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

  Index size() const { return size_; }  // not Phi's own: its shape can be set
  const MseProblem& problem() const { return problem_; }

 private:
  py::array Phi_, y_;
  Index size_;
  MseProblem problem_;
  py::dtype dtype_;
};

Sampling sampling_of(const std::string& name) {
  if (name == "full") return Sampling::full;
  if (name == "shuffle") return Sampling::shuffle;
  if (name == "with_replacement") return Sampling::with_replacement;
  throw std::invalid_argument("sampling: got '" + name + "'");
}

// Held while a thread is inside an object that serves one at a time.
class Stepping {
 public:
  using Flag = std::atomic<int>;  // the generation of the process whose thread is at it
  static constexpr int kNobody = -1;

  struct Inside {
    const char *what, *after_fork;
  };
  static constexpr Inside kOptimizer = {
      "step() of this optimizer",
      "its parameters and state are half stepped; restore both (load_state_dict for the state) before the next step"};

  explicit Stepping(Flag& flag, const Inside& inside = kOptimizer) : flag_(flag) {
    int nobody = kNobody;
    if (flag_.compare_exchange_strong(nobody, fork_generation())) return;
    const std::string what = inside.what;
    if (nobody == fork_generation()) throw std::runtime_error("another thread is inside " + what);
    flag_ = kNobody;
    throw std::runtime_error("this process was forked while another thread was inside " + what + ": here " +
                             inside.after_fork);
  }
  ~Stepping() { flag_ = kNobody; }

 private:
  Flag& flag_;
};

// A Trainer and the problem whose arrays it reads.
class BoundTrainer {
 public:
  static constexpr Stepping::Inside kInside = {"a run with this trainer", "its draws are half made; make a new one"};

  BoundTrainer(py::object problem, const std::string& sampling, Index batch_size, std::uint64_t seed)
      : held_(std::move(problem)), trainer_(make(held_.cast<const BoundMse&>(), sampling, batch_size, seed)) {}

  Trainer& trainer() { return trainer_; }
  Stepping::Flag& stepping() { return stepping_; }

 private:
  static Trainer make(const BoundMse& mse, const std::string& sampling, Index batch_size, std::uint64_t seed) {
    if (batch_size < 1) throw std::invalid_argument("batch_size: expected 1 or more");
    return Trainer(mse.problem(), Batches(sampling_of(sampling), mse.size(), batch_size, seed));
  }

  py::object held_;
  Trainer trainer_;
  Stepping::Flag stepping_{Stepping::kNobody};
};

// A Sampler for one thread at a time: two at once would draw the same words, or none that there are.
class BoundSampler {
 public:
  explicit BoundSampler(std::uint64_t seed) : sampler_(seed) {}

  py::array_t<Index> shuffle(Index n) {
    return drawn(n, [n](Sampler& sampler, Index* order) { sampler.shuffle(order, n); });
  }

  py::array_t<Index> draws(Index m, Index n) {
    if (n < 1) throw std::invalid_argument("n: got " + std::to_string(n) + ", expected at least 1");
    return drawn(m, [m, n](Sampler& sampler, Index* out) { sampler.draws(out, m, n); });
  }

 private:
  static constexpr Stepping::Inside kInside = {"this sampler", "its draws are half made; make a new one"};

  template <class Draw>
  py::array_t<Index> drawn(Index count, Draw draw) {
    if (count < 0) throw std::invalid_argument("got " + std::to_string(count) + " draws, expected 0 or more");
    Stepping alone(stepping_, kInside);
    py::array_t<Index> out(count);
    Index* to = out.mutable_data();
    if (count < kReleaseInterpreter) {
      draw(sampler_, to);
    } else {
      py::gil_scoped_release others_may_run;
      draw(sampler_, to);
    }
    return out;
  }

  Sampler sampler_;
  Stepping::Flag stepping_{Stepping::kNobody};
};

struct Range {
  const char *begin, *end;
  bool operator<(const Range& other) const { return begin < other.begin; }
};

// What a step writes.
class Written {
 public:
  void add(const void* data, Index bytes) {
    const char* begin = static_cast<const char*>(data);
    if (bytes > 0) ranges_.push_back({begin, begin + bytes});
  }
  void sort() { std::sort(ranges_.begin(), ranges_.end()); }

  // Whether no two of them overlap. Sorted, as below.
  bool is_disjoint() const {
    for (size_t k = 1; k < ranges_.size(); ++k) {
      if (ranges_[k].begin < ranges_[k - 1].end) return false;
    }
    return true;
  }
  bool overlaps(const char* begin, Index bytes) const {
    auto after = std::upper_bound(ranges_.begin(), ranges_.end(), Range{begin, nullptr});
    if (after != ranges_.end() && after->begin < begin + bytes) return true;
    return after != ranges_.begin() && bytes > 0 && std::prev(after)->end > begin;
  }

 private:
  std::vector<Range> ranges_;
};

Options options_of(const py::object& options) {
  Options out;
  out.decoupled = options.attr("decoupled").cast<bool>();
  out.maximize = options.attr("maximize").cast<bool>();
  out.zero_grads = options.attr("zero_grads").cast<bool>();
  out.flush_subnormals = options.attr("flush_subnormals").cast<bool>();
  out.nonfinite =
      options.attr("nonfinite").cast<std::string>() == "propagate" ? Nonfinite::propagate : Nonfinite::refuse;
  out.clip_norm = options.attr("clip_norm").cast<double>();
  out.clip_value = options.attr("clip_value").cast<double>();
  out.ema = options.attr("ema").cast<double>();
  out.rounds_at_random = !options.attr("stochastic_rounding").is_none();
  if (out.rounds_at_random) out.seed = options.attr("stochastic_rounding").cast<std::uint64_t>();
  return out;
}

Index gradient_bytes(const Tensor& t) { return t.size * (t.storage != as_is ? 2 : bytes_of(t.type)); }

void check_hyper(const Plan& plan, const std::vector<double>& hyper) {
  if (static_cast<int>(hyper.size()) != plan.n_groups() * active_isa().rules[plan.rule()].n_hyper) {
    throw std::invalid_argument("hyper: wrong number of values");
  }
}

void check_steps(const py::array_t<Index>& steps, size_t params) {
  if (steps.size() != py::ssize_t(params + 1) || !has_flags(steps, kInPlace | py::array::c_style)) {
    throw std::invalid_argument("steps: expected one for every parameter, and one more, in one writeable block");
  }
}

// A Plan and the arrays it writes to. The arrays come checked from arrays.py; step() sees to it that they are still
// where they were and that every gradient fits, before the first byte is written.
class BoundPlan {
 public:
  // Else: the first gradient to be looked at more closely.
  static constexpr Index kStepped = -1, kMoved = -2, kNonfinite = -3;

  using Arrays = std::vector<py::array>;

  // options: a samestep.options.Options, or None.
  BoundPlan(const std::string& rule, const Arrays& params, const std::vector<Arrays>& states, py::array_t<Index> steps,
            const py::object& options)
      : steps_(std::move(steps)) {
    int row = find_rule(rule);
    n_states_ = active_isa().rules[row].n_states;
    check_steps(steps_, params.size());
    bool complete = static_cast<int>(states.size()) == n_states_;
    for (const Arrays& state : states) complete = complete && state.size() == params.size();
    if (!complete) throw std::invalid_argument("states: expected one of each for every parameter");
    std::vector<Tensor> tensors;
    std::vector<int> groups(params.size(), 0);
    Options asked;
    Arrays averages, masters, lows, copies;
    if (!options.is_none()) {
      asked = options_of(options);
      groups = options.attr("groups").cast<std::vector<int>>();
      averages = options.attr("averages").cast<Arrays>();
      masters = options.attr("masters").cast<Arrays>();
      lows = options.attr("lows").cast<Arrays>();
      copies = options.attr("copies").cast<Arrays>();
    }
    bool complete_options = groups.size() == params.size();
    for (const Arrays* arrays : {&averages, &masters, &lows, &copies}) {
      complete_options = complete_options && (arrays->empty() || arrays->size() == params.size());
    }
    if (!complete_options) {
      throw std::invalid_argument("groups, averages, masters, lows, copies: expected one for every parameter");
    }
    for (size_t i = 0; i < params.size(); ++i) {
      tensors.push_back(bind(params[i], i, states));
      Tensor& tensor = tensors.back();
      if (groups[i] < 0) throw std::invalid_argument("groups: expected numbers from 0 on");
      tensor.group = groups[i];
      const bool is_half = tensor.storage != as_is;
      if (!averages.empty()) tensor.ema = bind_beside(averages[i], working_dtype(tensor), "averages");
      if (!masters.empty() && is_half) tensor.master = bind_beside(masters[i], working_dtype(tensor), "masters");
      if (!lows.empty() && tensor.storage == bfloat16) {
        tensor.low = bind_beside(lows[i], py::dtype::of<std::uint16_t>(), "lows");
      }
      if (!copies.empty() && tensor.type == float32) {
        tensor.copy_storage = storage_of(copies[i]);
        if (tensor.copy_storage == as_is) throw std::invalid_argument("copies: expected 16-bit arrays");
        tensor.copy = bind_beside(copies[i], copies[i].dtype(), "copies");
      }
    }
    written_.sort();
    accepted_.resize(tensors.size());
    plan_.emplace(row, std::move(tensors), steps_.mutable_data());
    plan_->options() = asked;
  }

  void set_weight_decay(std::vector<double> weight_decay) {
    Stepping alone(stepping_);
    if (static_cast<int>(weight_decay.size()) != plan_->n_groups()) {
      throw std::invalid_argument("weight_decay: expected one for every group");
    }
    plan_->options().weight_decay = std::move(weight_decay);
  }

  double norm() const { return plan_->norm(); }

  Index step(py::handle grads, const std::vector<double>& hyper, double scale) {
    Stepping alone(stepping_);
    check_hyper(*plan_, hyper);
    py::object held = py::reinterpret_steal<py::object>(PySequence_Tuple(grads.ptr()));
    if (!held) throw py::error_already_set();
    Index status = take(held);
    if (status != kStepped) return status;
    if (size_ < kReleaseInterpreter) return plan_->step(hyper.data(), scale) ? kStepped : kNonfinite;
    py::gil_scoped_release others_may_run;
    return plan_->step(hyper.data(), scale) ? kStepped : kNonfinite;
  }

  // So many steps along the gradient of the trainer's problem.
  Index train(BoundTrainer& bound, const std::vector<double>& hyper, Index steps) {
    Stepping alone(stepping_);
    Stepping alone_there(bound.stepping(), BoundTrainer::kInside);
    check_hyper(*plan_, hyper);
    Trainer& trainer = bound.trainer();
    const std::vector<Tensor>& tensors = plan_->tensors();
    if (tensors.size() != 1 || tensors[0].storage != as_is || tensors[0].type != trainer.problem().type() ||
        tensors[0].size != trainer.problem().p()) {
      throw std::invalid_argument("trainer: expected a plan of one array like the problem's weights");
    }
    if (!all_are_there()) return kMoved;
    py::gil_scoped_release others_may_run;
    trainer.run(*plan_, hyper.data(), steps);
    return kStepped;
  }

 private:
  static py::dtype working_dtype(const Tensor& tensor) {
    return tensor.type == float32 ? py::dtype::of<float>() : py::dtype::of<double>();
  }

  Tensor bind(const py::array& w, size_t i, const std::vector<Arrays>& states) {
    const Storage storage = storage_of(w);
    const bool is_float = storage != as_is || w.dtype().equal(py::dtype::of<float>());
    if ((!is_float && !w.dtype().equal(py::dtype::of<double>())) || !has_flags(w, kInPlace)) {
      throw std::invalid_argument("params: expected writeable, aligned float32, float64 or 16-bit arrays");
    }
    Tensor tensor{is_float ? float32 : float64, static_cast<Index>(w.size()), raw(w).data, {}, nullptr};
    tensor.storage = storage;
    tensor.stores_states = storage != as_is && n_states_ > 0 && states[0][i].dtype().equal(w.dtype());
    size_ += tensor.size;
    params_.emplace_back(w);
    written_.add(raw(w).data, w.nbytes());
    for (int s = 0; s < n_states_; ++s) {
      const py::dtype dtype = tensor.stores_states ? w.dtype() : working_dtype(tensor);
      tensor.states[s] = bind_beside(states[s][i], dtype, "states");
    }
    return tensor;
  }

  // An array that lies like the last parameter and is written with it.
  void* bind_beside(const py::array& array, const py::dtype& dtype, const char* name) {
    if (!array.dtype().equal(dtype) || !params_.back().walks_with(array, array.itemsize()) ||
        !has_flags(array, kInPlace)) {
      throw std::invalid_argument(std::string(name) + ": expected arrays like the parameters");
    }
    beside_.emplace_back(array);
    written_.add(raw(array).data, array.nbytes());
    return raw(array).data;
  }

  bool all_are_there() const {
    const auto is_there = [](const BoundArray& array) { return array.is_there(); };
    return std::all_of(params_.begin(), params_.end(), is_there) &&
           std::all_of(beside_.begin(), beside_.end(), is_there);
  }

  // Enters the gradients into the plan, or says what is in the way.
  Index take(py::handle grads) {
    std::vector<Tensor>& tensors = plan_->tensors();
    if (PyTuple_GET_SIZE(grads.ptr()) != static_cast<py::ssize_t>(tensors.size())) {
      throw std::invalid_argument("grads: expected one for every parameter");
    }
    const Options& options = plan_->options();
    const int gradient_flags = options.zero_grads ? kInPlace : kAligned;
    in_order_.clear();
    if (!all_are_there()) return kMoved;
    for (size_t i = 0; i < tensors.size(); ++i) {
      Tensor& tensor = tensors[i];
      py::handle g = PyTuple_GET_ITEM(grads.ptr(), i);
      if (g.is_none()) {
        tensor.g = nullptr;
        continue;
      }
      if (!params_[i].takes_gradient(g) || !has_flags(g, gradient_flags)) return i;
      if (raw(g).data != accepted_[i]) {
        if (written_.overlaps(raw(g).data, gradient_bytes(tensor))) return i;
        accepted_[i] = raw(g).data;
      }
      tensor.g = raw(g).data;
      tensor.g_in_order = nullptr;
      if (options.clip_norm < Options::kNone && !has_flags(g, py::array::c_style)) {
        in_order_.push_back(py::array::ensure(g, py::array::c_style));
        tensor.g_in_order = in_order_.back().data();
      }
    }
    return options.zero_grads ? find_gradient_given_twice() : kStepped;
  }

  // Where gradients are set to zero one must not be read again, in whole or in part, for another parameter.
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
    return kStepped;
  }

  py::array_t<Index> steps_;
  int n_states_ = 0;
  Index size_ = 0;
  std::vector<BoundArray> params_;
  std::vector<BoundArray> beside_;     // their states, running averages and whatever else a step writes
  Arrays in_order_;                    // copies of gradients that lie in another order than C's
  Written written_;                    // all of them, disjoint
  std::vector<const char*> accepted_;  // where each gradient was when it was last held against them
  std::optional<Plan> plan_;           // made once the tensors are known
  Stepping::Flag stepping_{Stepping::kNobody};
};

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

  // Whether one flat loop walks both.
  static bool walks(const Layout& a, const Layout& b) {
    if (!(a.dtype == b.dtype) || a.is_conjugate != b.is_conjugate || a.shape != b.shape) return false;
    for (size_t d = 0; d < a.shape.size(); ++d) {
      if (a.strides[d] != b.strides[d] && a.shape[d] > 1 && a.size > 0) return false;
    }
    return true;
  }

  static bool is_aligned(const Layout& a) {
    return reinterpret_cast<std::uintptr_t>(a.data) % (a.dtype.bits / 8 * a.dtype.lanes) == 0;
  }

  std::vector<Layout> layouts_;
  py::object type_;
  const dlpack::Exchange* exchange_ = nullptr;
};

// A Plan over memory that its caller holds and vouches for at every step: tensors by address, as torch/ hands them.
class AddressedPlan {
 public:
  using Address = std::uintptr_t;
  // dtype of parameter and gradient, elements, parameter, states; of 16 bits the states are in float32
  using Memory = std::tuple<std::string, Index, Address, std::vector<Address>>;
  // Of a parameter that is no block of memory: which, where it lies, whether negated there; shape, its strides, and
  // those of the block in `Memory`, which is stepped in its place.
  using Strided = std::tuple<size_t, Address, bool, std::vector<Index>, std::vector<Index>, std::vector<Index>>;

  AddressedPlan(const std::string& rule, const std::vector<Memory>& memory, py::array_t<Index> steps,
                const py::object& options, std::vector<Strided> strided)
      : steps_(std::move(steps)), strided_(std::move(strided)) {
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
    written_.sort();
    accepted_.resize(tensors.size());
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
  static py::object step_together(const Plans& plans, const std::vector<py::list>& grads,
                                  const std::vector<std::vector<double>>& hyper,
                                  const std::vector<double>& weight_decay, const py::list& then) {
    const size_t n = plans.size();
    if (grads.size() != n || hyper.size() != n || weight_decay.size() != n) {
      throw std::invalid_argument("grads, hyper, weight_decay: expected one for every plan");
    }
    std::deque<Stepping> alone;  // of which none is ever copied
    Index size = 0;
    for (size_t p = 0; p < n; ++p) {
      alone.emplace_back(plans[p]->stepping_);
      check_hyper(*plans[p]->plan_, hyper[p]);
      size += plans[p]->size_;
      const Index refused = plans[p]->take(grads[p]);
      if (refused != BoundPlan::kStepped) return py::make_tuple(p, refused);
    }
    const auto step = [&] {
      for (size_t p = 0; p < n; ++p) plans[p]->run(hyper[p], weight_decay[p]);
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

  static void* at(Address address) { return reinterpret_cast<void*>(address); }

  // Enters the gradients: kStepped, or the first that lies where a step writes.
  Index take(const py::list& grads) {
    std::vector<Tensor>& tensors = plan_->tensors();
    if (grads.size() != tensors.size()) throw std::invalid_argument("grads: expected one for every parameter");
    for (size_t i = 0; i < tensors.size(); ++i) {
      Tensor& tensor = tensors[i];
      py::handle address = PyList_GET_ITEM(grads.ptr(), i);
      tensor.g = nullptr;
      if (address.is_none()) continue;
      const char* g = static_cast<const char*>(at(PyLong_AsUnsignedLongLong(address.ptr())));
      if (PyErr_Occurred() != nullptr) throw py::error_already_set();
      if (g != accepted_[i] && written_.overlaps(g, gradient_bytes(tensor))) return i;
      accepted_[i] = g;
      tensor.g = tensor.size == 0 ? kNothing : g;  // an empty tensor has no address, but it counts its steps
    }
    return BoundPlan::kStepped;
  }

  // A step with the gradients that were taken.
  void run(const std::vector<double>& hyper, double weight_decay) {
    plan_->options().weight_decay = {weight_decay};
    for (const Strided& parameter : strided_) copy(parameter, true);
    plan_->step(hyper.data());
    for (const Strided& parameter : strided_) copy(parameter, false);
  }

  // Between a parameter's own memory and the block that is stepped.
  void copy(const Strided& parameter, bool into_block) {
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
  Index size_ = 0;
  Written written_;
  std::vector<const char*> accepted_;  // where each gradient was when it was last held against them
  std::optional<Plan> plan_;           // made once the tensors are known
  Stepping::Flag stepping_{Stepping::kNobody};
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

// A rule's coefficients at step t as its kernels take them, for kernels that run elsewhere.
py::bytes coefficients(const std::string& rule, const py::dtype& dtype, Index t, const std::vector<double>& hyper,
                       double weight_decay) {
  const Rule& row = active_isa().rules[find_rule(rule)];
  if (static_cast<int>(hyper.size()) != row.n_hyper) throw std::invalid_argument("hyper: wrong number of values");
  Type type = dtype.equal(py::dtype::of<float>()) ? float32 : float64;
  Coefficients out{};
  {
    FpMode mode;
    row.update[type].coefficients(t, hyper.data(), &out);
    out.decay = active_isa().decoupled_decay(hyper[0], weight_decay);
  }
  return {reinterpret_cast<const char*>(&out), sizeof(out)};
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
  m.def("coefficients", coefficients, py::arg("rule"), py::arg("dtype"), py::arg("t"), py::arg("hyper"),
        py::arg("weight_decay") = 0.0);
  m.def("isas", isas, "instruction sets this machine can run, best first");
  m.def("get_isa", [] { return active_isa().name; });
  m.def("set_isa", [](const std::string& name) { return set_isa(name.c_str()); }, "False: unknown or not supported");
  m.def("withdraw_isa", [](const std::string& name) { withdraw_isa(name.c_str()); });
  m.def("self_check", self_check, "(kernel, hash of what it makes of a few numbers), for the table in use");
  m.def("vector_bytes", [] { return active_isa().vector_bytes; }, "what the table in use was compiled for");
  m.def("get_num_threads", get_num_threads);
  m.def("set_num_threads", set_num_threads);
  m.def("wake_always", wake_always, py::arg("on"));
  m.def("default_num_threads", default_num_threads);
  m.def("canonical_sum", sum_of_array, py::arg("x"), py::arg("outer"), py::arg("n"), py::arg("inner"));
  m.def("global_norm", norm_of_arrays, py::arg("arrays"));
  m.def("batchnorm_forward", batchnorm_forward);
  m.def("batchnorm_backward", batchnorm_backward);
  m.def("batchnorm_inference", batchnorm_inference);
  m.def("update_running", update_running_of);
  py::class_<BoundPlan>(m, "Plan")
      .def(py::init<const std::string&, const BoundPlan::Arrays&, const std::vector<BoundPlan::Arrays>&,
                    py::array_t<Index>, const py::object&>(),
           py::arg("rule"), py::arg("params"), py::arg("states"), py::arg("steps").noconvert(),
           py::arg("options") = py::none())
      .def("step", &BoundPlan::step, py::arg("grads"), py::arg("hyper"), py::arg("scale") = 1.0)
      .def("set_weight_decay", &BoundPlan::set_weight_decay, py::arg("weight_decay"))
      .def_property_readonly("norm", &BoundPlan::norm)
      .def("train", &BoundPlan::train, py::arg("trainer"), py::arg("hyper"), py::arg("steps"));
  py::class_<Layouts>(m, "Layouts")
      .def(py::init<const py::list&>(), py::arg("tensors"))
      .def("find_moved", &Layouts::find_moved, py::arg("tensors"))
      .def("take", &Layouts::take, py::arg("tensors"));
  py::class_<AddressedPlan>(m, "AddressedPlan")
      .def(py::init<const std::string&, const std::vector<AddressedPlan::Memory>&, py::array_t<Index>,
                    const py::object&, std::vector<AddressedPlan::Strided>>(),
           py::arg("rule"), py::arg("memory"), py::arg("steps").noconvert(), py::arg("options"),
           py::arg("strided") = std::vector<AddressedPlan::Strided>())
      .def_property_readonly("is_disjoint", &AddressedPlan::is_disjoint)
      .def_static("step_together", &AddressedPlan::step_together, py::arg("plans"), py::arg("grads"), py::arg("hyper"),
                  py::arg("weight_decay"), py::arg("then"));
  py::class_<BoundMse>(m, "Mse")
      .def(py::init<const py::array&, const py::array&, double, bool>(), py::arg("Phi"), py::arg("y"),
           py::arg("factor"), py::arg("per_row"))
      .def("evaluate", &BoundMse::evaluate, py::arg("w"), py::arg("rows").noconvert(), py::arg("r"), py::arg("g"));
  py::class_<BoundTrainer>(m, "Trainer")
      .def(py::init<py::object, const std::string&, Index, std::uint64_t>(), py::arg("problem"), py::arg("sampling"),
           py::arg("batch_size"), py::arg("seed"));
  py::class_<BoundSampler>(m, "Sampler")
      .def(py::init<std::uint64_t>(), py::arg("seed"))
      .def("shuffle", &BoundSampler::shuffle, py::arg("n"))
      .def("draws", &BoundSampler::draws, py::arg("m"), py::arg("n"));
}
