// What the bit contract costs: the kernels as they are, guard included, beside the same source compiled with
// contraction into fused multiply-adds allowed and called without the guard. Every rule, float32, in cache and from
// memory, one thread.
#include <cstring>
#include <string>
#include <vector>

#include "bench.h"
#include "dispatch.h"
#include "fp_mode.h"

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
  rule.update[float32].apply(c, a.w.data(), a.g.data(), states, 0, a.n);
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  const Isa& ours = active_isa();
  std::printf("rule                                    size      contract us   contracted us   ratio   (%s)\n",
              ours.name);
  double worst = 0.0;
  for (int row = 0; row < ours.n_rules; ++row) {
    const double hyper[kMaxHyper] = {1e-3, 0.9, 0.9, 1e-8};
    Coefficients with, without;
    ours.rules[row].update[float32].coefficients(10, hyper, &with);
    isa_contracted.rules[row].update[float32].coefficients(10, hyper, &without);
    for (Index n : {Index(4096), quick ? Index(8192) : Index(1) << 22}) {
      Arrays a(n, ours.rules[row].n_states);
      std::vector<bench::Contender> turns = {{"contract",
                                              [&] {
                                                FpMode mode;
                                                step(ours.rules[row], with, a);
                                              },
                                              {}},
                                             {"contracted", [&] { step(isa_contracted.rules[row], without, a); }, {}}};
      bench::take_turns(turns, quick ? 2 : 40, quick ? 1e-5 : 2e-3);
      const double ratio = turns[0].minimum() / turns[1].minimum();
      worst = std::max(worst, ratio);
      std::printf("%-34s %8lld %13.2f %15.2f %7.3f\n", ours.rules[row].name, n, turns[0].minimum() * 1e6,
                  turns[1].minimum() * 1e6, ratio);
    }
  }
  std::printf("worst ratio %.3f\n", worst);
  return 0;
}
