// How the work of a kernel is shared on a GPU: warps, threads, packs of 16 bytes. No formulas.
//
// A kernel runs as a grid of blocks of THREADS threads (kernels.py), 32 of them to a warp, whose threads exchange
// values by shuffles; the threads of a block share memory and meet at __syncthreads(). Blocks wait for each other only
// in a Team; else what needs the work of others is the next launch.
#pragma once
#include "contract/types.h"

namespace samestep {

// Shared memory of as many bytes as the launch names.
alignas(16) extern __shared__ unsigned char launched_memory[];

namespace {

constexpr int kWarp = 32;             // threads
constexpr int kSharingThreads = 768;  // at most, of the blocks that fill a processor's shared memory

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

// Blocks of threads that wait for each other, in a launch of whole teams. Each draws a ticket as it begins, and `size`
// tickets in a row are a team. So of a launch only the team that began last can lack members that have not begun, and
// while the GPU has room for one more block, they begin. No order of blocks is assumed, only that a block that has
// begun goes on: decoupled look-back assumes the same (Merrill & Garland 2016). backends/gpu/batchnorm.py keeps teams
// small enough.
//
// After arrives_last() all threads of the last member read what any thread of the team wrote before it. After wait()
// and a barrier, all threads of the others read what thread 0 of the last member wrote before release(). On either way
// a fence and an atomic addition meet a read of the sum and a fence, with barriers around them for the other threads:
// that is release and acquire in PTX's memory model, and how the grid's barrier of cooperative groups is built.
class Team {
 public:
  // counters: tickets drawn, then for each team the members that have arrived, and one more when it is released. All
  // are 0 before the launch. A team of 1 needs none.
  Team(unsigned* counters, Index size) : size_(size) {
    __shared__ unsigned ticket;
    if (size > 1) {
      if (threadIdx.x == 0) ticket = atomicAdd(counters, 1u);
      __syncthreads();
    }
    const Index drawn = size > 1 ? ticket : blockIdx.x;
    number_ = drawn / size, member_ = drawn % size;
    arrived_ = counters + 1 + number_;
  }
  Index size() const { return size_; }
  Index number() const { return number_; }  // of the team in the launch
  Index member() const { return member_; }  // which of the team this block is

  // For all threads; true in the last member.
  bool arrives_last() const {
    __shared__ unsigned before;
    __syncthreads();
    if (size_ == 1) return true;
    if (threadIdx.x == 0) {
      __threadfence();
      before = atomicAdd(arrived_, 1u);
      __threadfence();
    }
    __syncthreads();
    return before + 1 == size_;
  }

  // For thread 0 of the last member.
  void release() const {
    if (size_ == 1) return;
    __threadfence();
    atomicAdd(arrived_, 1u);
  }

  // For thread 0 of the others.
  void wait() const {
    while (*static_cast<const volatile unsigned*>(arrived_) <= size_) __nanosleep(50);
    __threadfence();
  }

 private:
  const Index size_;
  Index number_, member_;
  unsigned* arrived_;
};

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
