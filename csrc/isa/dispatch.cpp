// Which instruction sets this machine has, and which one is in use. No kernels.
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

std::atomic<const Isa*> active{nullptr};
std::atomic<const Isa*> withdrawn[2] = {};  // of the tables beyond the baseline

bool is_withdrawn(const Isa& isa) { return withdrawn[0] == &isa || withdrawn[1] == &isa; }

}  // namespace

int available_isas(const Isa** out, int capacity) {
  int n = 0;
  auto add = [&](const Isa& isa) {
    if (n < capacity && !is_withdrawn(isa)) out[n++] = &isa;
  };
#ifdef SAMESTEP_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    add(isa_avx512);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) add(isa_avx2);
#endif
  add(isa_baseline);
  return n;
}

namespace {

const Isa* best() {
  const Isa* first = nullptr;
  available_isas(&first, 1);
  return first;
}

}  // namespace

const Isa& active_isa() {
  const Isa* isa = active.load(std::memory_order_relaxed);
  if (isa == nullptr) active.store(isa = best(), std::memory_order_relaxed);
  return *isa;
}

bool set_isa(const char* name) {
  const Isa* isas[8];
  int n = available_isas(isas, 8);
  for (int i = 0; i < n; ++i) {
    if (std::strcmp(isas[i]->name, name) == 0) {
      active.store(isas[i], std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

void withdraw_isa(const char* name) {
  const Isa* isas[8];
  int n = available_isas(isas, 8);
  for (int i = 0; i + 1 < n; ++i) {  // the last is the baseline: something must remain
    if (std::strcmp(isas[i]->name, name) == 0) withdrawn[withdrawn[0] != nullptr] = isas[i];
  }
  active.store(best());
}

}  // namespace samestep
