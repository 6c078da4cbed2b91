// Leaves on a GPU: weighed, added and averaged. The formulas are those of contract/leaves.h.
#pragma once
#include "contract/leaves.h"
#include "contract/types.h"
#include "gpu/storage.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

struct LeafArguments {
  const void* from;  // (n)
  void* to;          // (n); to weigh and to average, it may be `from`
  Index n;
  Index from_storage, to_storage;
  double weight;    // of the leaf; to average, of all leaves
  Index per_block;  // elements of a block of threads
};

// to_i = formula(from_i); the body of for_each().
template <class T, class Formula>
struct MapLeaf {
  const LeafArguments& a;
  const Formula formula;

  template <class P>
  void run(Index i) const {
    P x = load_stored<P>(a.from, Storage(a.from_storage), i);
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) x.at[e] = formula(x.at[e]);
    store_stored(a.to, Storage(a.to_storage), i, x);
  }
};

// to_i = +0, and `from` is not read; the body of for_each().
template <class T>
struct ClearLeaf {
  T* const to;

  template <class P>
  void run(Index i) const {
    store_pack(to + i, P{});
  }
};

// to_i = to_i + from_i; the body of for_each().
template <class T>
struct AddLeaf {
  const T* const from;
  T* const to;

  template <class P>
  void run(Index i) const {
    const P other = load_pack<P>(from + i);
    P sum = load_pack<P>(to + i);
    const Added<T> added{};
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) sum.at[e] = added(sum.at[e], other.at[e]);
    store_pack(to + i, sum);
  }
};

// Calls the body for this block's elements.
template <class T, class Body>
inline void for_each_of(const LeafArguments& a, const Body& body) {
  const bool aligned = is_aligned(a.from) && is_aligned(a.to);
  const Index begin = blockIdx.x * a.per_block;
  for_each<T>(body, aligned, begin, smaller(a.n, begin + a.per_block));
}

template <class T>
void weigh_elements(const LeafArguments& a) {
  if (a.weight == 0.0) return for_each_of<T>(a, ClearLeaf<T>{static_cast<T*>(a.to)});
  for_each_of<T>(a, MapLeaf<T, Weighed<T>>{a, {T(a.weight)}});
}

template <class T>
void add_elements(const LeafArguments& a) {
  for_each_of<T>(a, AddLeaf<T>{static_cast<const T*>(a.from), static_cast<T*>(a.to)});
}

template <class T>
void average_elements(const LeafArguments& a) {
  for_each_of<T>(a, MapLeaf<T, Averaged<T>>{a, {T(a.weight)}});
}

}  // namespace
}  // namespace samestep
