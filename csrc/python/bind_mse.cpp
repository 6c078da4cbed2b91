// Mse, Trainer and Sampler: mean squared errors, their batches, and draws.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "python/arrays.h"
#include "python/bind.h"
#include "python/mse.h"
#include "python/step_guard.h"
#include "run/train.h"

namespace samestep {

namespace {

// A mean squared error and its arrays Phi (n, p) and y (n), which the package has checked: see problems/.
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

  // w (p), rows (batch). Writes residuals r (batch) and gradient g (p) where they are given; returns the loss.
  double evaluate(const py::array& w, const std::optional<py::array_t<Index>>& rows, const std::optional<py::array>& r,
                  const std::optional<py::array>& g) const {
    check_dense(w, dtype_, {problem_.p()}, "w");
    const Batch batch = batch_of(rows);
    if (r) check_dense(*r, dtype_, {batch.count}, "r");
    if (g) check_dense(*g, dtype_, {problem_.p()}, "g");
    void* to_r = r ? py::array(*r).mutable_data() : nullptr;
    void* to_g = g ? py::array(*g).mutable_data() : nullptr;
    MseProblem mine = problem_;  // with sums of its own: calls may come from several threads
    if (batch.count * problem_.p() < kReleaseInterpreter) return mine.evaluate(w.data(), batch, to_r, to_g);
    py::gil_scoped_release others_may_run;
    return mine.evaluate(w.data(), batch, to_r, to_g);
  }

  // The block sums of rows (batch): of the squares of the residuals (blocks), and of the gradient (blocks*p).
  std::pair<Doubles, std::optional<Doubles>> block_sums(const py::array& w,
                                                        const std::optional<py::array_t<Index>>& rows,
                                                        bool of_gradient) const {
    check_dense(w, dtype_, {problem_.p()}, "w");
    const Batch batch = batch_of(rows);
    const Index blocks = ceil_div(batch.count, kSumBlock);
    Doubles squares(blocks);
    std::optional<Doubles> gradient;
    if (of_gradient) gradient.emplace(blocks * problem_.p());
    double* to_squares = squares.mutable_data();
    double* to_gradient = gradient ? gradient->mutable_data() : nullptr;
    MseProblem mine = problem_;
    {
      py::gil_scoped_release others_may_run;
      mine.block_sums(w.data(), batch, nullptr, to_squares, to_gradient);
    }
    return {std::move(squares), std::move(gradient)};
  }

  // g (p), where it is given, from the sums of the gradient (p) over so many rows; returns the loss.
  double finish(Index rows, double squares, const std::optional<Doubles>& gradient,
                const std::optional<py::array>& g) const {
    if (rows < 1) throw std::invalid_argument("rows: expected 1 or more");
    if (!g) return problem_.finish(rows, squares, nullptr, nullptr);
    check_dense(*g, dtype_, {problem_.p()}, "g");
    if (!gradient) throw std::invalid_argument("gradient: got None, expected the sums for g");
    check_dense(*gradient, py::dtype::of<double>(), {problem_.p()}, "gradient");
    return problem_.finish(rows, squares, gradient->data(), py::array(*g).mutable_data());
  }

  Index size() const { return size_; }  // rows when it was bound: Phi's shape can be set later
  const MseProblem& problem() const { return problem_; }

 private:
  Batch batch_of(const std::optional<py::array_t<Index>>& rows) const {
    if (!rows) return {nullptr, size()};
    check_dense(*rows, py::dtype::of<Index>(), {rows->ndim() == 1 ? rows->shape(0) : -1}, "rows");
    const Batch batch{rows->data(), rows->shape(0)};
    for (Index i = 0; i < batch.count; ++i) {
      if (batch.rows[i] < 0 || batch.rows[i] >= size()) throw py::index_error("rows: no such row");
    }
    return batch;
  }

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

Trainer trainer_of(const BoundMse& mse, const std::string& sampling, Index batch_size, std::uint64_t seed) {
  if (batch_size < 1) throw std::invalid_argument("batch_size: expected 1 or more");
  return Trainer(mse.problem(), Batches(sampling_of(sampling), mse.size(), batch_size, seed));
}

// A Sampler for one thread at a time: two at once could draw the same words, or read past the block of four.
class BoundSampler {
 public:
  explicit BoundSampler(std::uint64_t seed) : sampler_(seed) {}

  py::array_t<Index> shuffle(Index n) {
    return fill(n, [n](Sampler& sampler, Index* order) { sampler.shuffle(order, n); });
  }

  py::array_t<Index> draws(Index m, Index n) {
    if (n < 1) throw std::invalid_argument("n: got " + std::to_string(n) + ", expected at least 1");
    return fill(m, [m, n](Sampler& sampler, Index* out) { sampler.draws(out, m, n); });
  }

 private:
  static constexpr StepGuard::Inside kInside = {"this sampler", "its draws are half made; make a new one"};

  template <class Draw>
  py::array_t<Index> fill(Index count, Draw draw) {
    if (count < 0) throw std::invalid_argument("got " + std::to_string(count) + " draws, expected 0 or more");
    StepGuard alone(stepping_, kInside);
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
  StepGuard::Flag stepping_{StepGuard::kNobody};
};

}  // namespace

BoundTrainer::BoundTrainer(py::object problem, const std::string& sampling, Index batch_size, std::uint64_t seed)
    : held_(std::move(problem)), trainer_(trainer_of(held_.cast<const BoundMse&>(), sampling, batch_size, seed)) {}

void bind_mse(py::module_& m) {
  py::class_<BoundMse>(m, "Mse")
      .def(py::init<const py::array&, const py::array&, double, bool>(), py::arg("Phi"), py::arg("y"),
           py::arg("factor"), py::arg("per_row"))
      .def("evaluate", &BoundMse::evaluate, py::arg("w"), py::arg("rows").noconvert(), py::arg("r"), py::arg("g"))
      .def("block_sums", &BoundMse::block_sums, py::arg("w"), py::arg("rows").noconvert(), py::arg("of_gradient"))
      .def("finish", &BoundMse::finish, py::arg("rows"), py::arg("squares"), py::arg("gradient").noconvert(),
           py::arg("g"));
  py::class_<BoundTrainer>(m, "Trainer")
      .def(py::init<py::object, const std::string&, Index, std::uint64_t>(), py::arg("problem"), py::arg("sampling"),
           py::arg("batch_size"), py::arg("seed"));
  py::class_<BoundSampler>(m, "Sampler")
      .def(py::init<std::uint64_t>(), py::arg("seed"))
      .def("shuffle", &BoundSampler::shuffle, py::arg("n"))
      .def("draws", &BoundSampler::draws, py::arg("m"), py::arg("n"));
}

}  // namespace samestep
