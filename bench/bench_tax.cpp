// What the bit contract costs: the kernels as they are, guard included, beside the same source compiled with
// contraction into fused multiply-adds allowed and called without the guard; and how much of that the guard is. Every
// rule, float32, in the first cache, in the second and from memory, one thread.
#include <cstring>
#include <string>
#include <vector>

#include "bench.h"
#include "isa/dispatch.h"
#include "run/fp_mode.h"

namespace samestep {
extern const Isa isa_contracted;
}

namespace {

using namespace samestep;

struct Arrays {
  Arrays(Index n, int n_states) : n(n), w(n), g(n), states(n_states, std::vector<float>(n)) {
    for (Index i = 0; i < n; ++i) {
      w[i] = float(37 * i % 101 - 50) / 64;
      g[i] = float(53 * i % 97 - 48) / 128;
    }
  }
  Index n;
  std::vector<float> w, g;
  std::vector<std::vector<float>> states;
};

void step(const Rule& rule, const Coefficients& c, Arrays& a) {
  void* states[kMaxStates];
  for (size_t s = 0; s < a.states.size(); ++s) states[s] = a.states[s].data();
  rule.update[float32].apply.plain(c, a.w.data(), a.g.data(), states, 0, a.n, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const Isa& ours = active_isa();
  const Index sizes[] = {4096, 16384, quick ? Index(32768) : Index(1) << 24};
  double worst[] = {0.0, 0.0, 0.0};
  std::printf("%-34s %8s %12s %14s %7s %7s   (%s)\n", "rule", "size", "contract us", "contracted us", "ratio", "guard",
              ours.name);
  for (int row = 0; row < ours.n_rules; ++row) {
    const double hyper[kMaxHyper] = {1e-3, 0.9, 0.9, 1e-8};
    Coefficients with, without;
    ours.rules[row].update[float32].coefficients(10, hyper, &with);
    isa_contracted.rules[row].update[float32].coefficients(10, hyper, &without);
    for (int k = 0; k < 3; ++k) {
      Arrays a(sizes[k], ours.rules[row].n_states);
      auto kept = [&] { step(ours.rules[row], with, a); };
      std::vector<bench::Contender> turns = {{"contract",
                                              [&] {
                                                FpMode mode;
                                                kept();
                                              },
                                              {}},
                                             {"unguarded", kept, {}},
                                             {"contracted", [&] { step(isa_contracted.rules[row], without, a); }, {}}};
      bench::take_turns(turns, quick ? 2 : k < 2 ? 60 : 12, quick ? 1e-5 : 2e-3);
      const double contract = turns[0].minimum(), contracted = turns[2].minimum();
      worst[k] = std::max(worst[k], contract / contracted);
      std::printf("%-34s %8lld %12.2f %14.2f %7.3f %7.3f\n", ours.rules[row].name, sizes[k], contract * 1e6,
                  contracted * 1e6, contract / contracted, contract / turns[1].minimum());
    }
  }
  for (int k = 0; k < 3; ++k) std::printf("worst ratio at %lld elements: %.3f\n", sizes[k], worst[k]);
  return 0;
}
