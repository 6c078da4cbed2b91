// The golden digests without Python: a plain C++ program over the core. Its inputs are those of
// python/samestep/golden.py, word for word. Prints a line for each, "rule type inputs size steps hyper digest",
// computed on every instruction set of this machine at 1, 2 and 3 threads (or --threads N); exit 1 if two of these
// disagree.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "dispatch.h"
#include "plan.h"
#include "sha256.h"
#include "threads.h"

namespace {

using namespace samestep;

// HYPER of golden.py; eps of the default set differs from rule to rule.
double hyper_value(const std::string& set, const std::string& rule, const std::string& name) {
  static const std::map<std::string, double> other = {{"lr", 0.3},  {"momentum", 0.5}, {"momentum_next", 0.25},
                                                      {"rho", 0.6}, {"beta1", 0.7},    {"beta2", 0.8},
                                                      {"eps", 0.01}};
  if (set == "other") return other.at(name);
  if (set == "zero") return name == "lr" ? 1.0 : 0.0;
  if (name == "lr") return 0.01;
  if (name == "beta2") return 0.999;
  if (name != "eps") return 0.9;
  return rule.rfind("adagrad", 0) == 0 ? 1e-7 : rule.rfind("rmsprop", 0) == 0 ? 1e-6 : 1e-8;
}

std::vector<double> hyper_values(const Rule& rule, const std::string& set) {
  std::vector<double> values;
  std::istringstream names(rule.hyper);
  for (std::string name; names >> name;) values.push_back(hyper_value(set, rule.name, name));
  return values;
}

// Word i = 1, 2, ... of splitmix64 from state seed * 2^32.
std::uint64_t random_word(std::uint64_t i, std::uint64_t seed) {
  std::uint64_t z = i * 0x9E3779B97F4A7C15 + (seed << 32);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

template <class T>
std::vector<T> finite_values(int size, int seed) {
  std::vector<T> values(size);
  for (int i = 0; i < size; ++i) values[i] = T(double(random_word(i + 1, seed) >> 40) / 8388608.0 - 1.0);
  return values;
}

template <class T>
std::vector<T> random_values(int size, int seed) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits mantissa = (Bits(1) << (sizeof(T) == 4 ? 23 : 52)) - 1;
  std::vector<T> values = finite_values<T>(size, seed);
  for (int i = 0; i < size; ++i) {
    if (random_word(i + 1, seed) & 7) continue;
    std::uint64_t pattern = random_word(i + 1, seed + 1);
    Bits bits = pattern >> 62 == 0 ? Bits(pattern) & mantissa : Bits(pattern);
    std::memcpy(&values[i], &bits, sizeof(bits));
  }
  return values;
}

struct Program {
  const char* inputs;
  int size, steps;
  const char* hyper;
};

template <class T>
std::vector<T> gradient(const Program& program, int t) {
  if (program.inputs == std::string("finite")) return finite_values<T>(program.size, 3 + 2 * t);
  if (program.inputs == std::string("random")) return random_values<T>(program.size, 3 + 2 * t);
  std::vector<T> g(program.size);
  for (int i = 0; i < program.size; ++i) g[i] = T(((53 * i + 29 * t) % 97 - 48) / 128.0);
  return g;
}

template <class T>
std::vector<T> parameter(const Program& program) {
  if (program.inputs == std::string("finite")) return finite_values<T>(program.size, 1);
  if (program.inputs == std::string("random")) return random_values<T>(program.size, 1);
  std::vector<T> w(program.size);
  for (int i = 0; i < program.size; ++i) w[i] = T((37 * i % 101 - 50) / 64.0);
  return w;
}

// Little-endian bytes, every NaN as the one quiet NaN.
template <class T>
void append_bytes(std::vector<std::uint8_t>& bytes, const std::vector<T>& values) {
  for (T value : values) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (value != value) bits = sizeof(T) == 4 ? Bits(0x7fc00000) : Bits(0x7ff8000000000000);
    for (std::size_t i = 0; i < sizeof(bits); ++i) bytes.push_back(std::uint8_t(bits >> (8 * i)));
  }
}

template <class T>
std::string digest(int row, Type type, const Program& program) {
  const Rule& rule = active_isa().rules[row];
  std::vector<T> w = parameter<T>(program), turns[7], states[kMaxStates];
  for (int t = 0; t < 7 && t < program.steps; ++t) turns[t] = gradient<T>(program, t);
  Tensor tensor{type, program.size, w.data(), {}, nullptr};
  for (int s = 0; s < rule.n_states; ++s) {
    states[s].resize(program.size);
    tensor.states[s] = states[s].data();
  }
  Index steps = 0;
  Plan plan(row, {tensor}, &steps);
  const std::vector<double> hyper = hyper_values(rule, program.hyper);
  static const T none{};  // an empty tensor has a gradient too: no step is left out
  for (int t = 0; t < program.steps; ++t) {
    plan.tensors()[0].g = program.size ? turns[t % 7].data() : &none;
    plan.step(hyper.data());
  }
  std::vector<std::uint8_t> bytes;
  append_bytes(bytes, w);
  for (int s = 0; s < rule.n_states; ++s) append_bytes(bytes, states[s]);
  return sha256_hex(bytes).substr(0, 16);
}

std::vector<Program> programs() {
  std::vector<Program> out = {{"exact", 1000, 5, "default"}, {"finite", 7, 10000, "default"}};
  for (const char* hyper : {"default", "other", "zero"}) {
    for (int size : {0, 1, 7, 1000, 100003}) out.push_back({"random", size, 3, hyper});
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  int first_threads = 1, last_threads = 3;
  if (argc == 3 && argv[1] == std::string("--threads")) first_threads = last_threads = std::stoi(argv[2]);
  const Isa* isas[8];
  const int n_isas = available_isas(isas, 8);
  int configurations = 0, differing = 0;
  for (int row = 0; row < active_isa().n_rules; ++row) {
    for (Type type : {float32, float64}) {
      for (const Program& program : programs()) {
        std::string first;
        for (int i = 0; i < n_isas; ++i) {
          set_isa(isas[i]->name);
          for (int threads = first_threads; threads <= last_threads; ++threads) {
            set_num_threads(threads);
            std::string found =
                type == float32 ? digest<float>(row, type, program) : digest<double>(row, type, program);
            ++configurations;
            if (first.empty()) first = found;
            if (found != first) {
              ++differing;
              std::fprintf(stderr, "%s on %s, %d threads: %s, not %s\n", isas[i]->rules[row].name, isas[i]->name,
                           threads, found.c_str(), first.c_str());
            }
          }
        }
        std::printf("%s %s %s %d %d %s %s\n", active_isa().rules[row].name, type == float32 ? "float32" : "float64",
                    program.inputs, program.size, program.steps, program.hyper, first.c_str());
      }
    }
  }
  std::fprintf(stderr, "%d configurations, %d differ\n", configurations, differing);
  return differing == 0 ? 0 : 1;
}
