// The golden digests without Python: a plain C++ program over the core. Its inputs are those of
// python/samestep/proof/golden.py, word for word. Prints a line for each, "rule type inputs size steps hyper digest",
// computed on every instruction set of this machine at 1, 2 and 3 threads (or --threads N); exit 1 if two of these
// disagree. The last line, on stderr, names the instruction sets.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "convolution.h"
#include "inputs.h"
#include "isa/dispatch.h"
#include "leaves.h"
#include "network.h"
#include "run/jobs.h"
#include "run/mse_problem.h"
#include "run/plan.h"
#include "run/threads.h"
#include "sha256.h"

namespace {

using namespace samestep;

using Bytes = std::vector<std::uint8_t>;

std::string digest(const Bytes& bytes) { return sha256_hex(bytes).substr(0, 16); }

// SIZES and OPTION_SIZES of golden.py.
constexpr int kSizes[] = {0, 1, 7, 1000, 100003}, kOptionSizes[] = {0, 1, 7, 1000, 2500};

// HYPER of golden.py; eps of the default set differs from rule to rule.
double hyper_value(const std::string& set, const std::string& rule, const std::string& name) {
  static const std::map<std::string, double> other = {{"lr", 0.3},         {"momentum", 0.5}, {"momentum_next", 0.25},
                                                      {"dampening", 0.25}, {"rho", 0.6},      {"beta1", 0.7},
                                                      {"beta2", 0.8},      {"eps", 0.01}};
  if (name == "lr_decay") return set == "all" ? 0.5 : 0.0;
  if (set == "other") return other.count(name) ? other.at(name) : 0.5;  // of a rule without digests yet
  if (set == "zero") return name == "lr" ? 1.0 : 0.0;
  if (name == "lr") return 0.01;
  if (name == "beta2") return 0.999;
  if (name == "dampening") return 0.1;
  if (name != "eps") return 0.9;
  return rule.rfind("adagrad", 0) == 0 ? 1e-7 : rule.rfind("rmsprop", 0) == 0 ? 1e-6 : 1e-8;
}

std::vector<double> hyper_values(const Rule& rule, const std::string& set) {
  std::vector<double> values;
  std::istringstream names(rule.hyper);
  for (std::string name; names >> name;) values.push_back(hyper_value(set, rule.name, name));
  return values;
}

struct RuleProgram {
  const char* inputs;
  int size, steps;
  const char* hyper;
};

template <class T>
std::vector<T> gradient(const RuleProgram& program, int t) {
  if (program.inputs == std::string("finite")) return finite_values<T>(program.size, 3 + 2 * t);
  if (program.inputs == std::string("random")) return random_values<T>(program.size, 3 + 2 * t);
  std::vector<T> g(program.size);
  for (int i = 0; i < program.size; ++i) g[i] = T(((53 * i + 29 * t) % 97 - 48) / 128.0);
  return g;
}

template <class T>
std::vector<T> parameter(const RuleProgram& program) {
  if (program.inputs == std::string("finite")) return finite_values<T>(program.size, 1);
  if (program.inputs == std::string("random")) return random_values<T>(program.size, 1);
  std::vector<T> w(program.size);
  for (int i = 0; i < program.size; ++i) w[i] = T((37 * i % 101 - 50) / 64.0);
  return w;
}

// OPTIONS of golden.py.
void set_options(const std::string& name, Options& options, double* scale) {
  *scale = 1.0;
  if (name != "coupled" && name != "decoupled" && name != "all") return;
  options.weight_decay = {name == "all" ? 0.25 : 0.1};
  options.decoupled_weight_decay = name != "coupled";
  if (name != "all") return;
  *scale = 0.7;
  options.maximize = options.flush_subnormals = options.zero_grads = true;
  options.clip_norm = 10.0;
  options.clip_value = 0.25;
  options.ema = 0.9;
}

template <class T>
Bytes rule_bytes(int row, Type type, const RuleProgram& program) {
  const Rule& rule = active_isa().rules[row];
  std::vector<T> w = parameter<T>(program), turns[7], states[kMaxStates];
  for (int t = 0; t < 7 && t < program.steps; ++t) turns[t] = gradient<T>(program, t);
  Tensor tensor{type, program.size, w.data(), {}, nullptr};
  for (int s = 0; s < rule.n_states; ++s) {
    states[s].resize(program.size);
    tensor.states[s] = states[s].data();
  }
  Options options;
  double scale;
  set_options(program.hyper, options, &scale);
  std::vector<T> ema = w;
  if (options.ema != 0.0) tensor.ema = ema.data();
  Index steps[2] = {};
  Plan plan(row, {tensor}, steps);
  plan.options() = options;
  const std::vector<double> hyper = hyper_values(rule, program.hyper);
  static const T none{};  // an empty tensor has a gradient too: no step is left out
  for (int t = 0; t < program.steps; ++t) {
    plan.tensors()[0].g = program.size ? turns[t % 7].data() : &none;
    plan.step(hyper.data(), scale);
  }
  Bytes bytes;
  append_bytes(bytes, w);
  for (int s = 0; s < rule.n_states; ++s) append_bytes(bytes, states[s]);
  if (options.ema != 0.0) append_bytes(bytes, ema);
  return bytes;
}

// STORAGE of golden.py.
struct Stored {
  const char* name;
  Storage storage;
  bool stores_states, decoupled, at_random, has_master, flush_subnormals;
};
const Stored kStored[] = {{"float32_state", bfloat16, false, false, false, false, false},
                          {"bfloat16_state", bfloat16, true, true, false, false, false},
                          {"at_random", bfloat16, false, false, true, false, false},
                          {"master", bfloat16, false, false, false, true, true},
                          {"half_master", float16, false, false, false, true, false},
                          {"float16_state", float16, true, false, false, false, false}};

using Halves = std::vector<std::uint16_t>;

Halves narrowed(const std::vector<float>& x, Storage storage) {
  Halves halves(x.size());
  active_isa().storage[storage].narrow(x.data(), static_cast<Index>(x.size()), halves.data());
  return halves;
}

void append_halves(Bytes& bytes, const Halves& halves, Storage storage) {
  const int infinity = storage == float16 ? 0x7c00 : 0x7f80, quiet = storage == float16 ? 0x7e00 : 0x7fc0;
  for (std::uint16_t half : halves) {
    const int bits = (half & 0x7fff) > infinity ? quiet : half;
    bytes.push_back(std::uint8_t(bits));
    bytes.push_back(std::uint8_t(bits >> 8));
  }
}

Bytes stored_bytes(int row, int size, const Stored& how) {
  const Rule& rule = active_isa().rules[row];
  Halves w = narrowed(random_values<float>(size, 1), how.storage), grads[3], kept[kMaxStates];
  for (int t = 0; t < 3; ++t) grads[t] = narrowed(random_values<float>(size, 3 + 2 * t), how.storage);
  std::vector<float> states[kMaxStates], master(size);
  active_isa().storage[how.storage].widen(w.data(), size, master.data());
  Tensor tensor{float32, size, w.data(), {}, nullptr};
  tensor.storage = how.storage;
  tensor.stores_states = how.stores_states;
  if (how.has_master) tensor.master = master.data();
  for (int s = 0; s < rule.n_states; ++s) {
    kept[s].resize(size);
    states[s].resize(size);
    tensor.states[s] = how.stores_states ? static_cast<void*>(kept[s].data()) : states[s].data();
  }
  Options options;
  if (how.decoupled) options.weight_decay = {0.1};
  options.decoupled_weight_decay = how.decoupled;
  if (how.at_random) options.stochastic_rounding = 7;
  options.flush_subnormals = how.flush_subnormals;
  Index steps[2] = {};
  Plan plan(row, {tensor}, steps);
  plan.options() = options;
  const std::vector<double> hyper = hyper_values(rule, "default");
  static const std::uint16_t none{};  // as above
  for (const Halves& g : grads) {
    plan.tensors()[0].g = size ? g.data() : &none;
    plan.step(hyper.data(), 1.0);
  }
  Bytes bytes;
  append_halves(bytes, w, how.storage);
  for (int s = 0; s < rule.n_states; ++s) {
    how.stores_states ? append_halves(bytes, kept[s], how.storage) : append_bytes(bytes, states[s]);
  }
  if (how.has_master) append_bytes(bytes, master);
  return bytes;
}

// FingerprintProgram of fingerprints.py.
Bytes fingerprint_bytes(const std::string& dtype, const std::string& inputs, int size) {
  const bool random = inputs == "random";
  const std::vector<float> x =
      random ? random_values<float>(size, 1) : integer_values<float>(size, 37, 11, 1009, 400, 128.3);
  unsigned long long found = 0;
  if (dtype == "float32") found = fingerprint(numbers32, x.data(), size);
  if (dtype == "float64") {
    const std::vector<double> wide = random ? random_values<double>(size, 1) : std::vector<double>(x.begin(), x.end());
    found = fingerprint(numbers64, wide.data(), size);
  }
  if (dtype == "float16") found = fingerprint(numbers_float16, narrowed(x, float16).data(), size);
  if (dtype == "bfloat16") found = fingerprint(numbers_bfloat16, narrowed(x, bfloat16).data(), size);
  if (dtype == "uint16") {
    Halves lower(size);
    for (int i = 0; i < size; ++i) std::memcpy(&lower[i], &x[i], 2);
    found = fingerprint(bits16, lower.data(), size);
  }
  Bytes bytes;
  append_bytes(bytes, std::vector<double>{double(found >> 32), double(found & 0xffffffff)});
  return bytes;
}

std::vector<RuleProgram> rule_programs() {
  std::vector<RuleProgram> out = {{"exact", 1000, 5, "default"}, {"finite", 7, 10000, "default"}};
  for (const char* hyper : {"default", "other", "zero"}) {
    for (int size : kSizes) out.push_back({"random", size, 3, hyper});
  }
  for (int size : kOptionSizes) {
    for (const char* options : {"coupled", "decoupled"}) out.push_back({"random", size, 3, options});
    out.push_back({"finite", size, 3, "all"});
  }
  out.push_back({"finite", 100003, 3, "all"});
  return out;
}

// One line of the file: its name, and how to compute it.
struct Program {
  std::string name;
  std::function<Bytes()> compute;
};

template <class T>
Bytes sum_bytes(Type type, int size) {
  const std::vector<T> x = finite_values<T>(size, 1);
  std::vector<double> found(2);
  canonical_sum(type, values, x.data(), 1, size, 1, &found[0]);
  found[1] = global_norm({{type, x.data(), size / 3}, {type, x.data() + size / 3, size - size / 3}});
  Bytes bytes;
  append_bytes(bytes, found);
  return bytes;
}

template <class T>
Bytes batchnorm_bytes(Type type, bool relu, int channels, int size, const std::string& what) {
  const auto x = integer_values<T>(channels * size, 37, 11, 1009, 400, 128.3);
  const auto dy = integer_values<T>(channels * size, 53, 17, 911, 455, 257.7);
  const auto gamma = integer_values<T>(channels, 3, 1, 7, 3, 2.5), beta = integer_values<T>(channels, 5, 2, 11, 5, 9.1);
  std::vector<T> y(x.size()), dx(x.size()), mean(channels), inv(channels), dgamma(channels), dbeta(channels);
  std::vector<double> mean64(channels), var64(channels);
  BatchNorm job{};
  job.samples = 1, job.channels = channels, job.positions = size, job.eps = 1e-5;
  job.x = x.data(), job.gamma = gamma.data(), job.beta = beta.data(), job.out = y.data();
  job.mean = mean.data(), job.inv = inv.data(), job.mean64 = mean64.data(), job.var64 = var64.data();
  Bytes bytes;
  if (what == "inference") {
    std::vector<T> running_mean = beta, var(channels);
    for (int c = 0; c < channels; ++c) var[c] = std::abs(gamma[c]) + T(0.5);
    job.mean = running_mean.data(), job.var = var.data();
    run_batchnorm(type, inference, relu, job);
    append_bytes(bytes, y);
    return bytes;
  }
  run_batchnorm(type, forward, relu, job);
  if (what == "statistics") {
    append_bytes(bytes, mean);
    append_bytes(bytes, inv);
  } else if (what == "y") {
    append_bytes(bytes, y);
  } else {
    job.dy = dy.data(), job.out = dx.data(), job.dgamma = dgamma.data(), job.dbeta = dbeta.data();
    run_batchnorm(type, backward, relu, job);
    append_bytes(bytes, dx);
    append_bytes(bytes, dgamma);
    append_bytes(bytes, dbeta);
  }
  return bytes;
}

template <class T>
Bytes linear_bytes(Type type, int rows, int inputs, int columns, const std::string& what) {
  const auto x = integer_values<T>(rows * inputs, 37, 11, 1009, 400, 128.3);
  const auto w = integer_values<T>(inputs * columns, 53, 17, 911, 455, 257.7);
  const auto bias = integer_values<T>(columns, 5, 2, 11, 5, 9.1);
  const auto dy = integer_values<T>(rows * columns, 31, 3, 401, 200, 77.7);
  std::vector<T> y(rows * columns), dx(x.size()), dw(w.size()), dbias(columns);
  const Matrix X{x.data(), rows, inputs, inputs, 1}, W{w.data(), inputs, columns, columns, 1};
  Product job = product_of(X, W, y.data());
  job.bias = what == "product" ? nullptr : bias.data();
  job.relu = what == "relu" || what == "masked";
  run_product(type, job);
  Bytes bytes;
  if (what != "gradients" && what != "masked") {
    append_bytes(bytes, y);
    return bytes;
  }
  const Matrix h{what == "masked" ? y.data() : nullptr, rows, columns, columns, 1};
  run_linear_backward(type, {{dy.data(), rows, columns, columns, 1}, h, X, W, dx.data(), dw.data(), dbias.data()});
  append_bytes(bytes, dx);
  append_bytes(bytes, dw);
  append_bytes(bytes, dbias);
  return bytes;
}

template <class T>
Bytes mse_bytes(Type type, int rows, int columns, const std::string& what) {
  const auto Phi = integer_values<T>(static_cast<long long>(rows) * columns, 29, 13, 907, 450, 331.1);
  const auto y = integer_values<T>(rows, 31, 3, 401, 200, 77.7), w = integer_values<T>(columns, 7, 1, 19, 9, 6.3);
  std::vector<T> r(rows), g(columns);
  MseProblem problem(type, Phi.data(), y.data(), columns, {1.0, false});
  std::vector<double> loss = {problem.evaluate(w.data(), {nullptr, rows}, r.data(), g.data())};
  Bytes bytes;
  if (what == "residual") append_bytes(bytes, r);
  if (what == "gradient") append_bytes(bytes, g);
  if (what == "loss") append_bytes(bytes, loss);
  return bytes;
}

template <class T>
Bytes function_bytes(Type type, int row, int size) {
  Bytes bytes;
  for (auto x : {random_values<T>(size, 1), integer_values<T>(size, 37, 11, 100003, 50001, 401.7)}) {
    map_function(row, type, x.data(), size, x.data());
    append_bytes(bytes, x);
  }
  return bytes;
}

template <class T>
Bytes softmax_bytes(Type type, int rows, int columns) {
  const auto z = integer_values<T>(static_cast<long long>(rows) * columns, 37, 11, 1009, 400, 31.7);
  std::vector<Index> labels(rows);
  for (int i = 0; i < rows; ++i) labels[i] = (3 * i + 1) % columns;
  std::vector<T> dz(z.size());
  const std::vector<double> loss = {
      softmax_cross_entropy(type, {z.data(), labels.data(), rows, columns, nullptr, dz.data()})};
  Bytes bytes;
  append_bytes(bytes, loss);
  append_bytes(bytes, dz);
  return bytes;
}

template <class T>
Bytes network_bytes(Type type, int leaves) {
  int adam = 0;
  while (std::string(active_isa().rules[adam].name) != "adam_outside") ++adam;
  const std::vector<double> hyper = hyper_values(active_isa().rules[adam], "default");
  return run_network<T>(type, {40, 270, 16, 5}, 20, leaves, adam, hyper);
}

template <class T>
void add_programs(std::vector<Program>& out, Type type, const std::string& dtype) {
  for (int row = 0; row < active_isa().n_rules; ++row) {
    for (const RuleProgram& p : rule_programs()) {
      out.push_back({std::string(active_isa().rules[row].name) + " " + dtype + " " + p.inputs + " " +
                         std::to_string(p.size) + " " + std::to_string(p.steps) + " " + p.hyper,
                     [=] { return rule_bytes<T>(row, type, p); }});
    }
  }
  for (int size : kSizes) {
    out.push_back({"sum " + dtype + " " + std::to_string(size), [=] { return sum_bytes<T>(type, size); }});
  }
  for (bool relu : {false, true}) {
    for (auto [channels, size] : {std::pair{5, 2500}, {3, 49}, {300, 7}}) {
      for (std::string what : {"statistics", "y", "gradients", "inference"}) {
        std::string name = (relu ? "batchnorm+relu " : "batchnorm ") + dtype + " " + std::to_string(channels) + "x" +
                           std::to_string(size) + " " + what;
        out.push_back({name, [=, c = channels, m = size] { return batchnorm_bytes<T>(type, relu, c, m, what); }});
      }
    }
  }
  for (auto [n, k, j] : {std::array{7, 600, 5}, {65, 257, 50}, {1, 1, 1}}) {
    for (std::string what : {"product", "y", "relu", "gradients", "masked"}) {
      std::string name =
          "linear " + dtype + " " + std::to_string(n) + "x" + std::to_string(k) + "x" + std::to_string(j) + " " + what;
      out.push_back({name, [=, n = n, k = k, j = j] { return linear_bytes<T>(type, n, k, j, what); }});
    }
  }
  for (const ConvolutionCase& c : kConvolutions) {
    for (std::string what : {"y", "relu", "gradients", "masked"}) {
      out.push_back(
          {"conv2d " + dtype + " " + name_of(c) + " " + what, [=] { return run_convolution_case<T>(type, c, what); }});
    }
  }
  for (int row = 0; row < active_isa().n_functions; ++row) {
    for (int size : kSizes) {
      out.push_back({std::string(active_isa().functions[row].name) + " " + dtype + " " + std::to_string(size),
                     [=] { return function_bytes<T>(type, row, size); }});
    }
  }
  for (auto [rows, columns] : {std::pair{9, 11}, {1, 1}, {64, 33}, {5, 2500}, {1100, 3}}) {
    out.push_back({"softmax " + dtype + " " + std::to_string(rows) + "x" + std::to_string(columns),
                   [=, n = rows, c = columns] { return softmax_bytes<T>(type, n, c); }});
  }
  for (int leaves : {6, 8, 13}) {
    for (std::string what : {"mean", "weighted"}) {
      out.push_back({"leaves " + dtype + " 1000 " + std::to_string(leaves) + " " + what,
                     [=] { return run_leaves<T>(type, leaves, what == "weighted"); }});
    }
  }
  const std::string network = "network " + dtype + " 40x270x16x5 20";
  out.push_back({network, [=] { return network_bytes<T>(type, 0); }});
  out.push_back({network + " 4 leaves", [=] { return network_bytes<T>(type, 4); }});
  for (auto [rows, columns] : {std::pair{1500, 37}, {1, 1}, {70, 1030}}) {
    for (std::string what : {"residual", "gradient", "loss"}) {
      std::string name = "mse " + dtype + " " + std::to_string(rows) + "x" + std::to_string(columns) + " " + what;
      out.push_back({name, [=, n = rows, p = columns] { return mse_bytes<T>(type, n, p, what); }});
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  int first_threads = 1, last_threads = 3;
  if (argc == 3 && argv[1] == std::string("--threads")) first_threads = last_threads = std::stoi(argv[2]);
  const Isa* isas[kMaxIsas];
  const int n_isas = available_isas(isas);
  wake_always(true);
  std::vector<Program> programs;
  add_programs<float>(programs, float32, "float32");
  add_programs<double>(programs, float64, "float64");
  for (int row = 0; row < active_isa().n_rules; ++row) {
    for (const Stored& how : kStored) {
      for (int size : kOptionSizes) {
        programs.push_back(
            {std::string(active_isa().rules[row].name) + " float32 random " + std::to_string(size) + " 3 " + how.name,
             [=] { return stored_bytes(row, size, how); }});
      }
    }
  }
  for (std::string dtype : {"float32", "float64", "float16", "bfloat16", "uint16"}) {
    const auto add = [&](const std::string& inputs, int size) {
      programs.push_back({"fingerprint " + dtype + " " + inputs + " " + std::to_string(size),
                          [=] { return fingerprint_bytes(dtype, inputs, size); }});
    };
    add("integers", 1000);
    for (int size : kSizes) add("random", size);
  }
  int configurations = 0, differing = 0;
  for (const Program& program : programs) {
    std::optional<Bytes> first;
    for (int i = 0; i < n_isas; ++i) {
      set_isa(isas[i]->name);
      for (int threads = first_threads; threads <= last_threads; ++threads) {
        set_num_threads(threads);
        Bytes found = program.compute();
        ++configurations;
        if (!first) first = found;
        if (found != first) {
          ++differing;
          std::fprintf(stderr, "%s on %s, %d threads: %s, not %s\n", program.name.c_str(), isas[i]->name, threads,
                       digest(found).c_str(), digest(*first).c_str());
        }
      }
    }
    std::printf("%s %s\n", program.name.c_str(), digest(*first).c_str());
  }
  std::fprintf(stderr, "%d configurations on", configurations);
  for (int i = 0; i < n_isas; ++i) std::fprintf(stderr, " %s", isas[i]->name);
  std::fprintf(stderr, ", %d differ\n", differing);
  return differing == 0 ? 0 : 1;
}
