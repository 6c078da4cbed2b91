// Which tables of kernels this machine can run, and which one is in use. No kernels.
#include "isa/dispatch.h"

#include <atomic>
#include <cstring>

#ifdef __x86_64__
#include <cpuid.h>
#endif

namespace samestep {

extern const Isa isa_baseline;
extern const Isa isa_avx2;
extern const Isa isa_avx512;

namespace {

#ifdef __x86_64__
// What the processor has, and the registers that the operating system saves. Asked of the processor itself: where the
// runtime library of a compiler leaves out the detection, as zig's does, __builtin_cpu_supports finds nothing.
struct Cpu {
  unsigned leaf1 = 0, leaf7 = 0, saved = 0;  // cpuid(1).ecx, cpuid(7, 0).ebx, xcr0

  Cpu() {
    unsigned a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d)) leaf1 = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) leaf7 = b;
    const unsigned has_xgetbv = 1u << 27;
    if (leaf1 & has_xgetbv) __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
  }
  bool saves(unsigned registers) const { return (saved & registers) == registers; }
};

[[maybe_unused]] bool has_avx2() {
  const Cpu cpu;
  const unsigned fma = 1u << 12, avx = 1u << 28, avx2 = 1u << 5;
  return cpu.saves(0x06) && (cpu.leaf1 & fma) && (cpu.leaf1 & avx) && (cpu.leaf7 & avx2);  // xmm, ymm
}

[[maybe_unused]] bool has_avx512() {
  const Cpu cpu;
  const unsigned all = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;    // f, dq, bw, vl
  return has_avx2() && cpu.saves(0xe6) && (cpu.leaf7 & all) == all;  // and the masks and both halves of zmm
}
#endif

struct Table {
  const Isa* isa;
  bool (*runs_here)();  // whether this processor, and the operating system on it, has the instructions
  std::atomic<bool> withdrawn{false};
};

// Those of this build, best first. The baseline is last and always runs.
Table tables[] = {
#ifdef SAMESTEP_HAS_avx512
    {&isa_avx512, has_avx512},
#endif
#ifdef SAMESTEP_HAS_avx2
    {&isa_avx2, has_avx2},
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
  int n = 0;
  for (const Table& table : tables) {
    if (table.runs_here() && !table.withdrawn) out[n++] = table.isa;
  }
  return n;
}

const Isa& active_isa() {
  const Isa* isa = active.load(std::memory_order_relaxed);
  if (isa != nullptr) return *isa;
  const Isa* found = best();
  return active.compare_exchange_strong(isa, found) ? *found : *isa;  // set by another thread in the meantime
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
