// How the work of a kernel is shared on a GPU: warps, threads, packs of 16 bytes. No formulas.
//
// A kernel runs as a grid of blocks of THREADS threads (kernels.py), 32 of them to a warp, whose threads exchange
// values by shuffles; the threads of a block share memory and meet at __syncthreads(). Blocks know nothing of each
// other, so what needs the work of others is the next launch.
#pragma once
#include "contract/types.h"

namespace samestep {

// Shared memory of as many bytes as the launch names.
alignas(16) extern __shared__ unsigned char launched_memory[];

namespace {

constexpr int kWarp = 32;  // threads

inline Index smaller(Index a, Index b) { return a < b ? a : b; }

// The number of this warp, or thread, in the grid: the unit of work that falls to it.
inline Index warp_number() { return static_cast<Index>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp; }
inline Index thread_number() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }

// n values that one instruction loads or stores: 16 bytes at most. A step is bound by memory, and single floats would
// need four times as many instructions in flight for the same bandwidth.
template <class T, int n>
struct alignas(n * sizeof(T)) Pack {
  using Element = T;
  static constexpr int kSize = n;
  T at[n];
};
template <class T>
using Full = Pack<T, 16 / sizeof(T)>;
template <class T>
using Single = Pack<T, 1>;

inline bool is_aligned(const void* p) { return reinterpret_cast<unsigned long long>(p) % 16 == 0; }

// Calls body.run<P>(i), which computes elements i .. i + P::kSize - 1, for this thread's share of begin..end-1.
// Neighbours in a warp get neighbouring packs. aligned: element `begin` of every array lies on a multiple of 16 bytes;
// else, and after the last pack, elements are loaded one by one.
template <class T, class Body>
inline void for_each(const Body& body, bool aligned, Index begin, Index end) {
  if (aligned) {
    constexpr Index n = Full<T>::kSize;
    const Index packed = begin + (end - begin) / n * n;
    for (Index i = begin + n * threadIdx.x; i < packed; i += n * blockDim.x) body.template run<Full<T>>(i);
    begin = packed;
  }
  for (Index i = begin + threadIdx.x; i < end; i += blockDim.x) body.template run<Single<T>>(i);
}

template <class P, class T>
inline P load_pack(const T* from) {
  return *reinterpret_cast<const P*>(from);
}
template <class P, class T>
inline void store_pack(T* to, const P& values) {
  *reinterpret_cast<P*>(to) = values;
}

}  // namespace
}  // namespace samestep
