// Just enough of CUDA to compile csrc/gpu/kernels.cu for the host. cuda_shim.cpp runs the threads.
#pragma once

#include <cmath>
#include <cstring>

#define __CUDACC__
#define __host__
#define __device__
#define __shared__ thread_local  // static within a function, and all of it lies in one piece, which cuda_shim.cpp finds

struct Dim3 {
  unsigned x, y, z;
};
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

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

using Kernel = void (*)(const void*);
void run_grid(const char* name, Kernel kernel, const void* arguments, unsigned shared_bytes);
unsigned long long shuffle(unsigned long long value, unsigned from);  // of the warp; the own value where there is none

template <class T>
inline T shuffle_value(T value, unsigned from) {
  unsigned long long bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace shim

void __syncthreads();
inline void __threadfence() {}
void __nanosleep(unsigned);  // lets other blocks run
unsigned long long atomicAdd(unsigned long long* to, unsigned long long by);
unsigned atomicAdd(unsigned* to, unsigned by);
template <class T>
inline T __shfl_down_sync(unsigned, T value, unsigned by) {
  return shim::shuffle_value(value, threadIdx.x % 32 + by);
}
template <class T>
inline T __shfl_sync(unsigned, T value, unsigned from) {
  return shim::shuffle_value(value, from);
}
inline unsigned long long atomicMax(unsigned long long* to, unsigned long long value) {
  const unsigned long long before = *to;
  if (value > before) *to = value;
  return before;
}
