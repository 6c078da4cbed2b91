// Fingerprints made by the loops over rules: each run of elements is hashed as soon as it is stepped, while it is in
// registers or on its way to the cache. Beside the rule's divisions and the wait for memory that costs little; a pass
// of its own, even over the nearest cache, would let the memory wait.
#pragma once
#include "contract/fingerprint.h"
#include "contract/storage.h"
#include "isa/kernels.h"

namespace samestep {
namespace {

// Elements of the inner loop: whole vectors of any instruction set, whole cache lines of any type, and a constant, so
// that the compiler unrolls it and prefetches stand outside.
constexpr Index kRun = 64;

// How the types of the loops are hashed; what they keep in 16 bits is bfloat16.
template <class Kept>
struct Hashed;
template <>
struct Hashed<float> {
  using As = Fingerprinted32;
};
template <>
struct Hashed<double> {
  using As = Fingerprinted64;
};
template <>
struct Hashed<Half> {
  using As = FingerprintedBF16;
};

// The number, mixed, of the block that element i of the run is in.
template <class Kept>
inline Word64 mixed_number_of(const RunHashes& r, Index i) {
  return mix((r.first + i) * sizeof(Kept) / kFingerprintBytes);
}

// What arrays first..last-1 of one type have come to with a run, h: their block goes on, or is whole.
template <class Kept, int first, int last>
inline void keep_hashes(RunHashes& r, Index i, Index in_block, const Words64* h) {
  if (in_block + kRun * Index(sizeof(Kept)) < kFingerprintBytes) {
#pragma GCC unroll 8  // or h would go by way of the stack
    for (int k = first; k < last; ++k) store(r.lanes[k], h[k - first]);
    return;
  }
  const Word64 mixed_number = mixed_number_of<Kept>(r, i);
#pragma GCC unroll 8
  for (int k = first; k < last; ++k) {
    r.sums[k] += mix(sum_of_lanes(h[k - first]) ^ mixed_number);
    store(r.lanes[k], Words64{});
  }
}

// Adds a run of arrays first..last-1, from element i on, with every NaN as one.
template <class Kept, int first, int last>
__attribute__((noinline)) void hash_canonical(RunHashes& r, Index i) {
  const Index byte = i * sizeof(Kept), in_block = byte % kFingerprintBytes;
  Words64 h[last - first];
  for (int k = first; k < last; ++k) {
    h[k - first] = load<Words64>(r.lanes[k]);
    for (Index at = 0; at < kRun * Index(sizeof(Kept)); at += kVectorBytes) {
      h[k - first] += hash_vector<typename Hashed<Kept>::As>(r.arrays[k] + byte + at, in_block + at);
    }
  }
  keep_hashes<Kept, first, last>(r, i, in_block, h);
}

// What hash_canonical() does, in less time: mostly no value is NaN. Whether one is, is seen of two arrays at a time.
template <class Kept, int first, int last>
inline void hash_numbers(RunHashes& r, Index i) {
  constexpr int kCount = last - first;
  using Numbers = typename Vectors<Kept>::Full;
  const Index byte = i * sizeof(Kept), in_block = byte % kFingerprintBytes;
  Words64 h[kCount];
  for (int k = 0; k < kCount; ++k) h[k] = load<Words64>(r.lanes[first + k]);
  Unordered found{};
  for (Index at = 0; at < kRun * Index(sizeof(Kept)); at += kVectorBytes) {
    const Words keys = keys_of(in_block + at);
    Numbers x[kCount];
    for (int k = 0; k < kCount; ++k) {
      x[k] = in_register(load<Numbers>(r.arrays[first + k] + byte + at));
      if (k % 2 == 1 || k == kCount - 1) found |= unordered(x[k - k % 2], x[k]);
      h[k] += product_of_halves((Words64)((Words)x[k] + keys));
    }
  }
  if (any(found)) return hash_canonical<Kept, first, last>(r, i);
  keep_hashes<Kept, first, last>(r, i, in_block, h);
}

template <class Kept, int first, int last>
inline void hash_arrays(RunHashes& r, Index i) {
  if constexpr (sizeof(Kept) == 2) {
    hash_canonical<Kept, first, last>(r, i);
  } else {
    hash_numbers<Kept, first, last>(r, i);
  }
}

// The last n elements, from element i on; zeros fill their block.
template <class Kept, int first, int last>
inline void hash_ends(RunHashes& r, Index i, Index n) {
  const Index byte = i * sizeof(Kept), in_block = byte % kFingerprintBytes, bytes = n * sizeof(Kept);
  if (in_block + bytes == 0) return;
  const Word64 mixed_number = mixed_number_of<Kept>(r, i), padding = hash_of_zeros(in_block + bytes);
  for (int k = first; k < last; ++k) {
    Words64 h = load<Words64>(r.lanes[k]);
    for (Index at = 0; at < bytes; at += kVectorBytes) {
      char padded[kVectorBytes] = {};
      const char* x = r.arrays[k] + byte + at;
      if (at + kVectorBytes > bytes) {
        for (Index b = 0; b < bytes - at; ++b) padded[b] = x[b];
        x = padded;
      }
      h += hash_vector<typename Hashed<Kept>::As>(x, in_block + at);
    }
    r.sums[k] += mix((sum_of_lanes(h) + padding) ^ mixed_number);
  }
}

// A run of all arrays, n of them, in one call: inlined into each loop it would be compiled anew for every rule.
template <class W, class S, int n>
__attribute__((noinline)) void hash_run(RunHashes& r, Index i) {
  if constexpr (sizeof(W) == sizeof(S)) {
    hash_arrays<W, 0, n>(r, i);
  } else {
    hash_arrays<W, 0, 2>(r, i);
    if constexpr (n > 2) hash_arrays<S, 2, n>(r, i);
  }
}

template <class W, class S, int n>
__attribute__((noinline)) void hash_end(RunHashes& r, Index i, Index count) {
  hash_ends<W, 0, 2>(r, i, count);
  if constexpr (n > 2) hash_ends<S, 2, n>(r, i, count);
}

// Says what a loop is to hash: arrays from their first element on. To be called with the loop's own pointers: nobody
// else may read what is written through these.
template <class... Arrays>
inline void start_hashes(RunHashes& r, const Arrays*... arrays) {
  r.n = 0;
  ((r.sums[r.n] = 0, r.arrays[r.n++] = reinterpret_cast<const char*>(arrays)), ...);
  __builtin_memset(r.lanes, 0, sizeof r.lanes[0] * sizeof...(Arrays));
}

}  // namespace
}  // namespace samestep
