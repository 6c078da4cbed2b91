// Just enough of CUDA to run csrc/gpu/kernels.cu on the host: the threads of a block are fibers that give way at
// barriers and shuffles. Blocks run one after the other. A block whose threads wait for one another for ever ends the
// program.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define __CUDACC__
#define __host__
#define __device__
#define __shared__ static

struct Dim3 {
  unsigned x, y, z;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline long long __double_as_longlong(double x) {
  long long bits;
  std::memcpy(&bits, &x, 8);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double x;
  std::memcpy(&x, &bits, 8);
  return x;
}
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<unsigned long long>((static_cast<Wide>(a) * b) >> 64);
}

namespace shim {

constexpr std::size_t kStack = 64 << 10;

struct Barrier {
  unsigned arrived = 0, generation = 0;
};

// _setjmp and _longjmp switch without a system call; swapcontext makes two, and is needed on the way in alone.
struct Fiber {
  ucontext_t context;
  jmp_buf here;
  std::unique_ptr<char[]> stack{new char[kStack]};
  unsigned thread = 0;
  bool waits = false;
};

// A fiber takes thread after thread; only where one waits does the next thread need a fiber of its own.
class Block {
 public:
  void run(void (*kernel)(const void*), const void* arguments) {
    kernel_ = kernel, arguments_ = arguments;
    next_ = 0, progress_ = true;
    block_ = Barrier{};
    warps_.assign((blockDim.x + 31) / 32, Warp{});
    for (std::size_t used = 0;;) {
      bool any = false;
      progress_ = false;
      for (std::size_t i = 0; i < used; ++i) {
        if (fibers_[i]->waits) resume(*fibers_[i]), any = true;
      }
      while (next_ < blockDim.x) {
        if (used == fibers_.size()) fibers_.push_back(std::make_unique<Fiber>());
        start(*fibers_[used++]), any = true;
      }
      if (!any) return;
      if (!progress_) std::fprintf(stderr, "a barrier that not all threads reach\n"), std::abort();
    }
  }

  void wait_for_block() { wait(block_, blockDim.x); }

  template <class T>
  T shuffle_down(T value, unsigned by) {
    return shuffle(value, current_->thread % 32 + by);
  }

  // The value of thread `from` of the warp; of none, the own one.
  template <class T>
  T shuffle(T value, unsigned from) {
    const unsigned thread = current_->thread;
    Warp& warp = warps_[thread / 32];
    std::memcpy(&warp.values[thread % 32], &value, sizeof(T));
    wait(warp.barrier, 32);
    if (from < 32) std::memcpy(&value, &warp.values[from], sizeof(T));
    wait(warp.barrier, 32);
    return value;
  }

 private:
  struct Warp {
    Barrier barrier;
    unsigned long long values[32];
  };

  void wait(Barrier& barrier, unsigned expected) {
    progress_ = true;
    const unsigned generation = barrier.generation;
    if (++barrier.arrived == expected) {
      barrier.arrived = 0;
      ++barrier.generation;
      return;
    }
    Fiber& me = *current_;
    me.waits = true;
    while (barrier.generation == generation) {
      if (_setjmp(me.here) == 0) _longjmp(scheduler_here_, 1);
    }
    me.waits = false;
    progress_ = true;
  }

  void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    running_ = this;
    makecontext(&fiber.context, [] { running_->work(); }, 0);
    fiber.waits = false;
    current_ = &fiber;
    if (_setjmp(scheduler_here_) == 0) setcontext(&fiber.context);
  }

  void resume(Fiber& fiber) {
    current_ = &fiber;
    threadIdx.x = fiber.thread;
    if (_setjmp(scheduler_here_) == 0) _longjmp(fiber.here, 1);
  }

  void work() {
    Fiber& me = *current_;
    while (next_ < blockDim.x) {
      threadIdx.x = me.thread = next_++;
      kernel_(arguments_);
      progress_ = true;
    }
    _longjmp(scheduler_here_, 1);
  }

  inline static Block* running_ = nullptr;
  void (*kernel_)(const void*) = nullptr;
  const void* arguments_ = nullptr;
  unsigned next_ = 0;
  bool progress_ = false;
  Barrier block_;
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber* current_ = nullptr;
  jmp_buf scheduler_here_;
};

inline Block block;

}  // namespace shim

inline void __syncthreads() { shim::block.wait_for_block(); }
template <class T>
inline T __shfl_down_sync(unsigned, T value, unsigned by) {
  return shim::block.shuffle_down(value, by);
}
template <class T>
inline T __shfl_sync(unsigned, T value, unsigned from) {
  return shim::block.shuffle(value, from);
}
inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long by) {
  const unsigned long long before = *to;
  *to += by;
  return before;
}
inline unsigned long long atomicMax(unsigned long long* to, unsigned long long value) {
  const unsigned long long before = *to;
  if (value > before) *to = value;
  return before;
}
