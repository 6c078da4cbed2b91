// A plan when memory runs out: the step that fails has written nothing, and the next one steps every element, whether
// it is recorded, checked or neither. And a step of two tensors in one place, which a check finds. Prints what is
// wrong; exit 1 if anything is.
#include "run/plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "run/threads.h"

namespace {

int memory_left = -1;  // allocations that succeed; -1: all

bool is_left() {
  if (memory_left == 0) return false;
  if (memory_left > 0) --memory_left;
  return true;
}

using samestep::Index;

constexpr Index kSize = Index(1) << 20;  // of several settings, and so cut anew in the first steps
constexpr int kSteps = 30;

int find_rule(const char* name) {
  const samestep::Isa& isa = samestep::active_isa();
  const auto is_named = [name](const samestep::Rule& rule) { return std::string(rule.name) == name; };
  return static_cast<int>(std::find_if(isa.rules, isa.rules + isa.n_rules, is_named) - isa.rules);
}

// Whether a check finds element 2000 stepped twice; such a step does not count.
bool finds_a_wrong_element() {
  std::vector<float> w(3000, 1.0f), g(3000, 1.0f);
  samestep::Tensor whole{}, part{};
  whole.w = w.data(), whole.g = g.data(), whole.size = 3000;
  part.w = w.data() + 2000, part.g = g.data(), part.size = 1;
  Index steps[3] = {};
  samestep::Plan plan(find_rule("sgd"), {whole, part}, steps);
  plan.options().weight_decay = {0.0};
  const double lr = 0.5;
  if (plan.step(&lr, 1.0, {}, 100) != samestep::Outcome::mismatched) return false;
  const samestep::Mismatch& found = plan.mismatch();
  return found.tensor == 0 && found.kind == 1 && found.element == 2000 && found.stepped == 0 &&
         found.again == 0x3f000000 && steps[0] + steps[1] + steps[2] == 0;
}

}  // namespace

// Not inlined: the compiler would take malloc and free in the place of new and delete for a mistake.
__attribute__((noinline)) void* operator new(std::size_t size) {
  void* memory = is_left() ? std::malloc(size) : nullptr;
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main() {
  samestep::set_num_threads(2);
  std::vector<float> w(kSize, 0.0f), g(kSize, 1.0f);
  samestep::Tensor tensor{};
  tensor.w = w.data();
  tensor.g = g.data();
  tensor.size = kSize;
  Index steps[2] = {};
  samestep::Plan plan(find_rule("sgd"), {tensor}, steps);
  plan.options().weight_decay = {0.0};
  const double lr = 1.0;
  unsigned long long sums[2];
  const samestep::BlockSums recorded{sums, 2};
  int failed = 0;
  for (int t = 0; t < kSteps; ++t) {
    for (int allocations = 0;; ++allocations) {
      memory_left = allocations;
      bool done = true;
      try {
        plan.step(&lr, 1.0, t % 3 == 1 ? recorded : samestep::BlockSums{}, t % 3 == 2 ? 7 : 0);
      } catch (const std::bad_alloc&) {
        done = false;
      }
      memory_left = -1;
      failed += !done;
      const float expected = static_cast<float>(-t - done);
      const Index others = kSize - std::count(w.begin(), w.end(), expected);
      if (others != 0 || steps[0] != t + done) {
        std::printf("step %d, memory for %d more, %s: %lld elements and %lld steps\n", t, allocations,
                    done ? "made" : "failed", static_cast<long long>(kSize - others), static_cast<long long>(steps[0]));
        return 1;
      }
      if (done) break;
    }
  }

  if (failed == 0) std::printf("no allocation failed: nothing was tested\n");
  samestep::set_num_threads(1);
  const bool is_found = finds_a_wrong_element();
  if (!is_found) std::printf("a wrong element was not found\n");
  return failed == 0 || !is_found;
}
