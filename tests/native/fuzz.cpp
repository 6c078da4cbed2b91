// libFuzzer target: every instruction set on the same random bytes, sizes and offsets must agree bit for bit.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "isa/dispatch.h"
#include "run/plan.h"
#include "run/threads.h"

namespace {

using namespace samestep;

constexpr int kMaxSize = 300;

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  std::uint8_t next() { return at_ < size_ ? data_[at_++] : 0; }

  // Any bit patterns, from what is left, again and again; multiplied so that repeats differ.
  template <class T>
  std::vector<T> values(std::size_t n) {
    std::vector<std::uint8_t> bytes(n * sizeof(T));
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = size_ == 0 ? 0 : static_cast<std::uint8_t>(data_[(at_ + i) % size_] * (1 + 2 * (i / size_)));
    }
    at_ += bytes.size();
    std::vector<T> out(n);
    if (n > 0) std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0 && !(a[i] != a[i] && b[i] != b[i])) return false;
  }
  return true;
}

template <class T>
void agree(Type type, int row, Bytes bytes) {
  const Isa* isas[kMaxIsas];
  const int n_isas = available_isas(isas);
  const Rule& rule = isas[0]->rules[row];
  const int size = (bytes.next() | bytes.next() << 8) % kMaxSize, offset = bytes.next() % 16;
  const Index start = bytes.next();
  double hyper[kMaxHyper];
  for (double& h : hyper) h = bytes.next() / 256.0;
  const std::vector<T> w = bytes.values<T>(size + offset), g = bytes.values<T>(size + offset);
  std::vector<std::vector<T>> states;
  for (int s = 0; s < rule.n_states; ++s) states.push_back(bytes.values<T>(size + offset));

  std::vector<std::vector<T>> first;
  for (int i = 0; i < n_isas; ++i) {
    set_isa(isas[i]->name);
    std::vector<std::vector<T>> now = {w};
    now.insert(now.end(), states.begin(), states.end());
    Tensor tensor{type, size, now[0].data() + offset, {}, g.data() + offset};
    for (int s = 0; s < rule.n_states; ++s) tensor.states[s] = now[s + 1].data() + offset;
    Index steps[2] = {start, start};
    Plan plan(row, {tensor}, steps);
    plan.step(hyper);
    plan.step(hyper);
    if (i == 0) first = now;
    for (std::size_t a = 0; a < now.size(); ++a) {
      if (!same_bits(first[a], now[a])) {
        std::fprintf(stderr, "%s: %s and %s differ\n", rule.name, isas[0]->name, isas[i]->name);
        std::abort();
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const int row = bytes.next() % active_isa().n_rules;
  if (bytes.next() & 1) {
    agree<float>(float32, row, bytes);
  } else {
    agree<double>(float64, row, bytes);
  }
  return 0;
}
