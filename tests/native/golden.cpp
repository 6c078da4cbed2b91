// The golden digests without Python: a plain C++ program over the core, on every instruction set and 1, 2, 3 threads.
// Prints "rule type digest"; exit 1 if two configurations of this machine disagree.
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "dispatch.h"
#include "plan.h"
#include "sha256.h"
#include "threads.h"

namespace {

using namespace samestep;

// The hyper-parameters of the golden digests, by name; eps differs from rule to rule.
double hyper_value(const std::string& rule, const std::string& name) {
  if (name == "lr") return 0.01;
  if (name == "beta2") return 0.999;
  if (name != "eps") return 0.9;
  return rule.rfind("adagrad", 0) == 0 ? 1e-7 : rule.rfind("rmsprop", 0) == 0 ? 1e-6 : 1e-8;
}

std::vector<double> hyper_values(const Rule& rule) {
  std::vector<double> values;
  std::string names = std::string(rule.hyper) + " ", name;
  for (char c : names) {
    if (c != ' ') {
      name += c;
    } else {
      values.push_back(hyper_value(rule.name, name));
      name.clear();
    }
  }
  return values;
}

template <class T>
std::string golden(int row, Type type) {
  const int size = 1000;
  const Rule& rule = active_isa().rules[row];
  std::vector<T> w(size), g(size), states[kMaxStates];
  for (int i = 0; i < size; ++i) w[i] = T((37 * i % 101 - 50) / 64.0);
  Tensor tensor{type, size, w.data(), {}, g.data()};
  for (int s = 0; s < rule.n_states; ++s) {
    states[s].resize(size);
    tensor.states[s] = states[s].data();
  }
  Index steps = 0;
  Plan plan(row, {tensor}, &steps);
  const std::vector<double> hyper = hyper_values(rule);
  for (int t = 0; t < 5; ++t) {
    for (int i = 0; i < size; ++i) g[i] = T(((53 * i + 29 * t) % 97 - 48) / 128.0);
    plan.step(hyper.data());
  }
  std::vector<std::uint8_t> bytes(size * sizeof(T) * (1 + rule.n_states));
  std::memcpy(bytes.data(), w.data(), size * sizeof(T));
  for (int s = 0; s < rule.n_states; ++s) {
    std::memcpy(bytes.data() + (s + 1) * size * sizeof(T), states[s].data(), size * sizeof(T));
  }
  return sha256_hex(bytes);
}

}  // namespace

int main() {
  const Isa* isas[8];
  const int n_isas = available_isas(isas, 8);
  bool equal = true;
  for (int row = 0; row < active_isa().n_rules; ++row) {
    std::map<std::string, std::string> first;
    for (int i = 0; i < n_isas; ++i) {
      set_isa(isas[i]->name);
      for (int threads = 1; threads <= 3; ++threads) {
        set_num_threads(threads);
        for (Type type : {float32, float64}) {
          const char* dtype = type == float32 ? "float32" : "float64";
          std::string digest = type == float32 ? golden<float>(row, type) : golden<double>(row, type);
          auto [place, is_new] = first.emplace(dtype, digest);
          if (place->second != digest) {
            std::fprintf(stderr, "%s %s on %s: %s, not %s\n", active_isa().rules[row].name, dtype, isas[i]->name,
                         digest.c_str(), place->second.c_str());
            equal = false;
          }
        }
      }
    }
    for (const auto& [dtype, digest] : first) {
      std::printf("%s %s %s\n", active_isa().rules[row].name, dtype.c_str(), digest.substr(0, 16).c_str());
    }
  }
  return equal ? 0 : 1;
}
