// The floating-point mode of one thread: set to the contract's for a scope, then put back as it was, exception flags
// and all. Other libraries leave flush-to-zero on, users change the rounding; neither may reach the kernels.
#pragma once

#if !defined(__x86_64__) && !defined(__i386__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace samestep {

// The compiler must not move arithmetic across the guard: call kernels through a function pointer inside it.
class FpMode {
 public:
#if defined(__x86_64__) || defined(__i386__)
  // To write the register takes ten times as long as to read it. Mostly the mode is right and the caller has met an
  // inexact result before, which is all that kernels raise: nothing is written then.
  FpMode() : saved_(__builtin_ia32_stmxcsr()) {
    if ((saved_ & ~kFlags) != kMode) __builtin_ia32_ldmxcsr(kMode);
  }
  ~FpMode() {
    if (__builtin_ia32_stmxcsr() != saved_) __builtin_ia32_ldmxcsr(saved_);
  }

 private:
  static constexpr unsigned kMode = 0x1f80;  // nearest even, no FTZ, no DAZ, no traps
  static constexpr unsigned kFlags = 0x3f;   // the exceptions there have been
  unsigned saved_;
#elif defined(__aarch64__)
  FpMode() {
    asm volatile("mrs %0, fpcr" : "=r"(mode_));
    asm volatile("mrs %0, fpsr" : "=r"(flags_));
    asm volatile("msr fpcr, %0" ::"r"(0UL));
  }
  ~FpMode() {
    asm volatile("msr fpcr, %0" ::"r"(mode_));
    asm volatile("msr fpsr, %0" ::"r"(flags_));
  }

 private:
  unsigned long mode_, flags_;
#else
  FpMode() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FpMode() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif
  FpMode(const FpMode&) = delete;
  FpMode& operator=(const FpMode&) = delete;
};

}  // namespace samestep
