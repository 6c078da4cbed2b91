// Batch norm: forward, backward, inference, and the running statistics.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>

#include "python/arrays.h"
#include "python/bind.h"
#include "run/jobs.h"

namespace samestep {

namespace {

using Array = py::array;
using Sizes = std::tuple<Index, Index, Index>;

// Collects the arguments of one batch norm. Every array is checked as it is added: of x's dtype, in C order, and of
// N*C*S elements, or of C.
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
  void add_blocks(Direction direction, bool relu) const {
    py::gil_scoped_release others_may_run;
    add_batchnorm_blocks(type_, direction, relu, job);
  }
  void apply_sums(Direction direction, bool relu) const {
    py::gil_scoped_release others_may_run;
    apply_batchnorm_sums(type_, direction, relu, job);
  }

  // sums (2, blocks, C), or (C, 2, blocks) in planes, of blocks from term `first` of x on.
  void blocks(const Array& sums, Index first) {
    const Index C = job.channels, rows = job.samples * job.positions;
    job.blocks = C == 0 ? 0 : sums.size() / (2 * C), job.first = first;
    job.sums = static_cast<double*>(check(sums, float64, sums.size(), 2 * job.blocks * C, kContiguous | kInPlace));
    if (first < 0 || first > rows || job.blocks > ceil_div(rows - first, kSumBlock)) {
      throw std::invalid_argument("sums: expected room for no more blocks than x has");
    }
  }

  // Totals (2, C), or (C, 2) in planes, over a batch with so many values of each channel.
  void totals(const Array& sums, Index values) {
    job.sums = static_cast<double*>(check(sums, float64, sums.size(), 2 * job.channels, kContiguous | kInPlace));
    job.values = values;
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

// ---- where x is a part of a batch ----

void batchnorm_forward_blocks(const Array& x, const Array& shift, const Array& sums, Sizes sizes, bool channels_last,
                              Index first) {
  BatchNormArguments a(x, sizes, channels_last);
  a.job.x = a.values(x), a.job.shift = a.channels(shift);
  a.job.gamma = a.job.beta = a.job.shift;  // they are prepared with it; no sum has them
  a.blocks(sums, first);
  a.add_blocks(forward, false);
}

void batchnorm_forward_apply(const Array& x, const Array& shift, const Array& gamma, const Array& beta,
                             const Array& sums, const Array& out, const Array& mean, const Array& inv,
                             const Array& mean64, const Array& var64, Sizes sizes, bool channels_last, bool relu,
                             double eps, Index values) {
  BatchNormArguments a(x, sizes, channels_last);
  a.job.x = a.values(x), a.job.shift = a.channels(shift), a.job.gamma = a.channels(gamma);
  a.job.beta = a.channels(beta), a.job.out = a.out(out), a.job.mean = a.channels(mean), a.job.inv = a.channels(inv);
  a.job.mean64 = a.doubles(mean64), a.job.var64 = a.doubles(var64), a.job.eps = eps;
  a.totals(sums, values);
  a.apply_sums(forward, relu);
}

void batchnorm_backward_blocks(const Array& dy, const Array& x, const Array& gamma, const Array& beta,
                               const Array& mean, const Array& inv, const Array& sums, Sizes sizes, bool channels_last,
                               bool relu, Index first) {
  BatchNormArguments a(x, sizes, channels_last);
  a.job.dy = a.values(dy), a.job.x = a.values(x), a.job.gamma = a.channels(gamma), a.job.beta = a.channels(beta);
  a.job.mean = a.channels(mean), a.job.inv = a.channels(inv);
  a.blocks(sums, first);
  a.add_blocks(backward, relu);
}

void batchnorm_backward_apply(const Array& dy, const Array& x, const Array& gamma, const Array& beta, const Array& mean,
                              const Array& inv, const Array& sums, const Array& out, const Array& dgamma,
                              const Array& dbeta, Sizes sizes, bool channels_last, bool relu, Index values) {
  BatchNormArguments a(x, sizes, channels_last);
  a.job.dy = a.values(dy), a.job.x = a.values(x), a.job.gamma = a.channels(gamma), a.job.beta = a.channels(beta);
  a.job.mean = a.channels(mean), a.job.inv = a.channels(inv), a.job.out = a.out(out);
  a.job.dgamma = a.channels(dgamma), a.job.dbeta = a.channels(dbeta);
  a.totals(sums, values);
  a.apply_sums(backward, relu);
}

// ---- running statistics ----

void update_running_of(const Array& running_mean, const Array& running_var, const Doubles& mean64, const Doubles& var64,
                       Index values, double momentum, Index batches) {
  BatchNormArguments a(running_mean, Sizes(1, running_mean.size(), 1), false);
  update_running(type_of(running_mean), a.doubles(mean64), a.doubles(var64), a.job.channels, values, momentum, batches,
                 a.out(running_mean), a.out(running_var));
}

// The same, and count, an int64, is raised by one: in one call, so that nobody sees the one without the other.
void update_running_and_count(const Array& running_mean, const Array& running_var, const Doubles& mean64,
                              const Doubles& var64, Index values, double momentum, const Array& count) {
  if (!count.dtype().equal(py::dtype::of<Index>()) || count.size() != 1 || !has_flags(count, kInPlace)) {
    throw std::invalid_argument("count: expected a writeable array of one int64");
  }
  update_running_of(running_mean, running_var, mean64, var64, values, momentum, 0);
  ++*reinterpret_cast<Index*>(raw(count).data);
}

}  // namespace

void bind_batchnorm(py::module_& m) {
  m.def("batchnorm_forward", batchnorm_forward);
  m.def("batchnorm_backward", batchnorm_backward);
  m.def("batchnorm_inference", batchnorm_inference);
  m.def("batchnorm_forward_blocks", batchnorm_forward_blocks);
  m.def("batchnorm_forward_apply", batchnorm_forward_apply);
  m.def("batchnorm_backward_blocks", batchnorm_backward_blocks);
  m.def("batchnorm_backward_apply", batchnorm_backward_apply);
  m.def("update_running", update_running_of);
  m.def("update_running_and_count", update_running_and_count);
}

}  // namespace samestep
