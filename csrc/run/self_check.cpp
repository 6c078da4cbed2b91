// Runs every rule of the table in use, its sums, leaves, batch norm with ReLU, a linear layer, squared errors,
// functions, softmax and fingerprints on a few numbers and hashes the results: a quick check at import, not the proof.
// The expected hashes are in python/samestep/backends/cpu.py.
#include "run/self_check.h"

#include <cstring>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/mse_problem.h"
#include "run/plan.h"

namespace samestep {
namespace {

constexpr int kSize = 43;  // vectors of every width and a tail of scalars

// Multiples of 1/64, so exact in both types. One in 41 is a subnormal of float32, no more: they are slow on some
// processors.
template <class T>
std::vector<T> numbers(int size, int a, int m) {
  std::vector<T> out(size);
  for (int i = 0; i < size; ++i) {
    double tiny = i % 41 == 9 ? 1.0 / (1ull << 62) / (1ull << 62) / (1ull << 15) : 1.0;
    out[i] = T((a * i % m - m / 2) / 64.0 * tiny);
  }
  return out;
}

// FNV-1a (Fowler, Noll & Vo) over the bytes of values.
class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    for (T value : values) {
      unsigned char bytes[sizeof(T)];
      std::memcpy(bytes, &value, sizeof(T));
      for (unsigned char byte : bytes) state_ = (state_ ^ byte) * 0x100000001b3;
    }
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325;
};

template <class T>
void hash_rule(Hash& hash, int row, Type type) {
  const int n_states = active_isa().rules[row].n_states;
  std::vector<T> w = numbers<T>(kSize, 37, 101);
  const std::vector<T> g = numbers<T>(kSize, 53, 97);
  std::vector<std::vector<T>> states(n_states, std::vector<T>(kSize));
  Tensor tensor{type, kSize, w.data(), {}, g.data()};
  for (int s = 0; s < n_states; ++s) tensor.states[s] = states[s].data();
  Index steps[2] = {};
  Plan plan(row, {tensor}, steps);
  const double hyper[kMaxHyper] = {0.01, 0.9, 0.9, 0.001, 0.5, 0.5, 0.5, 0.5};
  plan.step(hyper);
  plan.step(hyper);
  hash.add(w);
  for (const auto& state : states) hash.add(state);
}

// All options of one step, on the first rule with a state.
template <class T>
void hash_options(Hash& hash, Type type, bool decoupled) {
  const int size = 1100;
  std::vector<T> w = numbers<T>(size, 37, 101), g = numbers<T>(size, 53, 97), ema = w;
  std::vector<T> states[kMaxStates];
  int row = 0;
  while (active_isa().rules[row].n_states == 0) ++row;
  Tensor tensor{type, size, w.data(), {}, g.data()};
  tensor.ema = ema.data();
  for (int s = 0; s < active_isa().rules[row].n_states; ++s) {
    states[s].resize(size);
    tensor.states[s] = states[s].data();
  }
  Index steps[2] = {};
  Plan plan(row, {tensor}, steps);
  Options& options = plan.options();
  options.decoupled_weight_decay = decoupled;
  options.maximize = options.zero_grads = options.flush_subnormals = true;
  options.nonfinite = Nonfinite::refuse;
  options.clip_norm = 10.0, options.clip_value = 0.25, options.ema = 0.9, options.weight_decay = {0.25};
  const double hyper[kMaxHyper] = {0.01, 0.9, 0.9, 0.001, 0.5, 0.5, 0.5, 0.5};
  plan.step(hyper, 0.7);
  for (const auto* result : {&w, &g, &ema, &states[0]}) hash.add(*result);
}

template <class T>
void hash_sum(Hash& hash, Type type) {
  const std::vector<T> x = numbers<T>(1100, 37, 101);
  std::vector<double> sums(1 + 11);
  canonical_sum(type, values, x.data(), 1, 1100, 1, &sums[0]);
  canonical_sum(type, values, x.data(), 1, 100, 11, &sums[1]);
  sums.push_back(global_norm({{type, x.data(), 1100}}));
  hash.add(sums);
}

// A weight of a third and a mean of three, which round: else neither fma nor a reciprocal would show.
template <class T>
void hash_leaves(Hash& hash, Type type) {
  std::vector<T> sum = numbers<T>(kSize, 37, 101), g = numbers<T>(kSize, 53, 97);
  weigh_leaf(type, as_is, g.data(), 1.0 / 3.0, kSize, g.data());
  add_leaves(type, g.data(), kSize, sum.data());
  average_leaves(type, sum.data(), 3.0, kSize, as_is, g.data());
  hash.add(sum);
  hash.add(g);
}

template <class T>
void hash_batchnorm(Hash& hash, Type type, bool channels_last) {
  const int channels = 5, size = 41;
  const std::vector<T> x = numbers<T>(channels * size, 37, 101), dy = numbers<T>(channels * size, 53, 97);
  const std::vector<T> gamma = numbers<T>(channels, 29, 89), beta = numbers<T>(channels, 31, 83);
  std::vector<T> y(x.size()), dx(x.size()), mean(channels), inv(channels), dgamma(channels), dbeta(channels);
  std::vector<double> mean64(channels), var64(channels);
  BatchNorm job{};
  job.samples = 1, job.channels = channels, job.positions = size, job.channels_last = channels_last, job.eps = 1e-5;
  job.x = x.data(), job.gamma = gamma.data(), job.beta = beta.data(), job.out = y.data();
  job.mean = mean.data(), job.inv = inv.data(), job.mean64 = mean64.data(), job.var64 = var64.data();
  run_batchnorm(type, forward, true, job);
  job.dy = dy.data(), job.out = dx.data(), job.dgamma = dgamma.data(), job.dbeta = dbeta.data();
  run_batchnorm(type, backward, true, job);
  for (const auto& result : {y, mean, inv, dx, dgamma, dbeta}) hash.add(result);
}

// Thirds, whose products are not exact: else neither fma nor the order of a sum would show.
template <class T>
void hash_linear(Hash& hash, Type type) {
  const int rows = 5, inputs = 258, columns = 3;
  std::vector<T> x = numbers<T>(rows * inputs, 37, 101), w = numbers<T>(inputs * columns, 53, 97);
  for (auto* values : {&x, &w}) {
    for (T& value : *values) value = value / T(3);
  }
  const std::vector<T> bias = numbers<T>(columns, 29, 89);
  std::vector<T> y(rows * columns);
  Product job = product_of({x.data(), rows, inputs, inputs, 1}, {w.data(), inputs, columns, columns, 1}, y.data());
  job.bias = bias.data(), job.relu = true;
  run_product(type, job);
  hash.add(y);
}

template <class T>
void hash_mse(Hash& hash, Type type) {
  const int rows = 35, columns = 19;
  const std::vector<T> Phi = numbers<T>(rows * columns, 37, 101), y = numbers<T>(rows, 53, 97);
  const std::vector<T> w = numbers<T>(columns, 29, 89);
  std::vector<T> r(rows), g(columns);
  MseProblem problem(type, Phi.data(), y.data(), columns, {1.0, true});
  hash.add(std::vector<double>{problem.evaluate(w.data(), {nullptr, rows}, r.data(), g.data())});
  hash.add(r);
  hash.add(g);
}

// The functions of one value where their results differ in size: of numbers, and of numbers a hundred times as large.
template <class T>
void hash_functions(Hash& hash, Type type) {
  std::vector<T> x = numbers<T>(kSize, 37, 101);
  for (int i = 0; i < kSize; i += 2) x[i] = x[i] * T(100);
  for (int row = 0; row < active_isa().n_functions; ++row) {
    std::vector<T> y(x.size());
    map_function(row, type, x.data(), kSize, y.data());
    for (T& value : y) value = value == value ? value : T(-1);  // which NaN is the processor's choice
    hash.add(y);
  }
  const std::vector<Index> labels = {3, 0, 10};
  std::vector<T> dz(33);
  hash.add(std::vector<double>{softmax_cross_entropy(type, {x.data(), labels.data(), 3, 11, nullptr, dz.data()})});
  hash.add(dz);
}

// Any bits as what they may be: one word in 41 is a NaN of every type, and the last block is short.
void hash_fingerprints(Hash& hash) {
  std::vector<std::uint64_t> x(300);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 41 == 9 ? ~0ull - i : i * 0x9e3779b97f4a7c15;
  const Index bytes = static_cast<Index>(x.size()) * 8;
  std::vector<std::uint64_t> found = {fingerprint(numbers32, x.data(), bytes / 4),
                                      fingerprint(numbers64, x.data(), bytes / 8)};
  for (Contents halves : {numbers_bfloat16, numbers_float16, bits16}) {
    found.push_back(fingerprint(halves, x.data(), bytes / 2));
  }
  hash.add(found);
}

}  // namespace

std::vector<std::pair<std::string, std::uint64_t>> self_check() {
  FpMode mode;  // numbers() computes subnormals, which the caller's mode may flush
  std::vector<std::pair<std::string, std::uint64_t>> out;
  for (int row = 0; row < active_isa().n_rules; ++row) {
    Hash hash;
    hash_rule<float>(hash, row, float32);
    hash_rule<double>(hash, row, float64);
    out.emplace_back(active_isa().rules[row].name, hash.value());
  }
  Hash options, sum, leaves, batchnorm, linear, mse, functions, fingerprints;
  for (bool decoupled : {false, true}) {
    hash_options<float>(options, float32, decoupled);
    hash_options<double>(options, float64, decoupled);
  }
  hash_sum<float>(sum, float32);
  hash_sum<double>(sum, float64);
  hash_leaves<float>(leaves, float32);
  hash_leaves<double>(leaves, float64);
  for (bool channels_last : {false, true}) {
    hash_batchnorm<float>(batchnorm, float32, channels_last);
    hash_batchnorm<double>(batchnorm, float64, channels_last);
  }
  hash_linear<float>(linear, float32);
  hash_linear<double>(linear, float64);
  hash_mse<float>(mse, float32);
  hash_mse<double>(mse, float64);
  hash_functions<float>(functions, float32);
  hash_functions<double>(functions, float64);
  hash_fingerprints(fingerprints);
  out.emplace_back("options", options.value());
  out.emplace_back("sum", sum.value());
  out.emplace_back("leaves", leaves.value());
  out.emplace_back("batchnorm", batchnorm.value());
  out.emplace_back("linear", linear.value());
  out.emplace_back("mse", mse.value());
  out.emplace_back("functions", functions.value());
  out.emplace_back("fingerprint", fingerprints.value());
  return out;
}

}  // namespace samestep
