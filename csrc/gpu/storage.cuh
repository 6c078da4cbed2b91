// Numbers kept in 16 bits on a GPU: packs of them, and whole arrays from one form to another. The formulas are those of
// contract/storage.h.
#pragma once
#include "contract/storage.h"
#include "contract/types.h"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

inline float widened(Half x, Storage storage) { return storage == bfloat16 ? BFloat16::widen(x) : Float16::widen(x); }
inline Half narrowed(float x, Storage storage) {
  return storage == bfloat16 ? BFloat16::narrow(x) : Float16::narrow(x);
}

// P is a Pack of float or double; of double nothing is kept in 16 bits.
template <class P>
using Halves = Pack<Half, P::kSize>;

template <class P>
inline P load_stored(const void* from, Storage storage, Index i) {
  using T = typename P::Element;
  if constexpr (sizeof(T) == 4) {
    if (storage != as_is) {
      const auto stored = load_pack<Halves<P>>(static_cast<const Half*>(from) + i);
      P values;
#pragma unroll
      for (int e = 0; e < P::kSize; ++e) values.at[e] = widened(stored.at[e], storage);
      return values;
    }
  }
  return load_pack<P>(static_cast<const T*>(from) + i);
}

template <class P>
inline void store_stored(void* to, Storage storage, Index i, const P& values) {
  using T = typename P::Element;
  if constexpr (sizeof(T) == 4) {
    if (storage != as_is) {
      Halves<P> stored;
#pragma unroll
      for (int e = 0; e < P::kSize; ++e) stored.at[e] = narrowed(values.at[e], storage);
      store_pack(static_cast<Half*>(to) + i, stored);
      return;
    }
  }
  store_pack(static_cast<T*>(to) + i, values);
}

struct ConvertArguments {
  const void *from, *low;  // (n); low: the lower halves of `from`, or nullptr
  void* to;
  Index n, from_storage, to_storage;
};

// A thread converts one float32.
void convert(const ConvertArguments& a) {
  using P = Single<float>;
  const Index i = thread_number();
  if (i >= a.n) return;
  P x = load_stored<P>(a.from, Storage(a.from_storage), i);
  if (a.low != nullptr) x.at[0] = Split::join(static_cast<const Half*>(a.from)[i], static_cast<const Half*>(a.low)[i]);
  store_stored(a.to, Storage(a.to_storage), i, x);
}

}  // namespace
}  // namespace samestep
