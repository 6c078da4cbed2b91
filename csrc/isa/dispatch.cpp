// Which tables of kernels this machine can run, and which one is in use. No kernels.
#include "isa/dispatch.h"

#include <atomic>
#include <cstring>

namespace samestep {

extern const Isa isa_baseline;
#ifdef SAMESTEP_X86
extern const Isa isa_avx2;
extern const Isa isa_avx512;
#endif

namespace {

struct Table {
  const Isa* isa;
  bool (*runs_here)();  // whether this processor, and the operating system on it, has the instructions
  std::atomic<bool> withdrawn{false};
};

// Best first. The baseline is last and always runs.
Table tables[] = {
#ifdef SAMESTEP_X86
    {&isa_avx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
     }},
    {&isa_avx2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {&isa_baseline, [] { return true; }},
};
static_assert(sizeof(tables) / sizeof(tables[0]) <= kMaxIsas, "callers' arrays hold kMaxIsas");

std::atomic<const Isa*> active{nullptr};

const Isa* best() {
  const Isa* isas[kMaxIsas] = {};
  available_isas(isas);
  return isas[0];
}

}  // namespace

int available_isas(const Isa** out) {
#ifdef SAMESTEP_X86
  __builtin_cpu_init();  // __builtin_cpu_supports needs it where constructors have not run yet
#endif
  int n = 0;
  for (const Table& table : tables) {
    if (table.runs_here() && !table.withdrawn) out[n++] = table.isa;
  }
  return n;
}

const Isa& active_isa() {
  const Isa* isa = active.load(std::memory_order_relaxed);
  if (isa == nullptr) active.store(isa = best(), std::memory_order_relaxed);
  return *isa;
}

bool set_isa(const char* name) {
  const Isa* isas[kMaxIsas];
  const int n = available_isas(isas);
  for (int i = 0; i < n; ++i) {
    if (std::strcmp(isas[i]->name, name) == 0) {
      active.store(isas[i], std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

void withdraw_isa(const char* name) {
  for (Table& table : tables) {
    // The baseline stays in any case: something must remain to run.
    if (table.isa != &isa_baseline && std::strcmp(table.isa->name, name) == 0) table.withdrawn = true;
  }
  active.store(best());
}

}  // namespace samestep
