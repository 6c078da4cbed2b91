// The floating-point mode of one thread: the contract's within a scope, afterwards what it was before, exception flags
// included. Other libraries leave flush-to-zero on, users change the rounding; neither may reach the kernels.
#pragma once

#if !defined(__x86_64__) && !defined(__i386__) && !defined(__aarch64__)
#include <cfenv>
#endif

namespace samestep {

// The compiler must not move arithmetic across the guard: call kernels through a function pointer inside it.
class FpMode {
 public:
#if defined(__x86_64__) || defined(__i386__)
  // Writing the register takes ten times as long as reading it. Mostly nothing is written: the mode is right already,
  // and the only flag that kernels usually raise, inexact, was raised before.
  FpMode() : saved_(__builtin_ia32_stmxcsr()) {
    if ((saved_ & ~kFlags) != kMode) __builtin_ia32_ldmxcsr(kMode);
  }
  ~FpMode() {
    if (__builtin_ia32_stmxcsr() != saved_) __builtin_ia32_ldmxcsr(saved_);
  }

 private:
  static constexpr unsigned kMode = 0x1f80;  // nearest even, no FTZ, no DAZ, no traps
  static constexpr unsigned kFlags = 0x3f;   // the exceptions raised so far
  unsigned saved_;
#elif defined(__aarch64__)
  FpMode() {
    asm volatile("mrs %0, fpcr" : "=r"(mode_));
    asm volatile("mrs %0, fpsr" : "=r"(flags_));
    asm volatile("msr fpcr, %0" ::"r"(0ULL));
  }
  ~FpMode() {
    asm volatile("msr fpcr, %0" ::"r"(mode_));
    asm volatile("msr fpsr, %0" ::"r"(flags_));
  }

 private:
  unsigned long long mode_, flags_;  // long has 32 bits on Windows
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
