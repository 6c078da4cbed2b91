// Fingerprints on a GPU: a warp hashes a block of 1024 bytes. The formulas are those of contract/fingerprint.h.
#pragma once
#include "contract/fingerprint.h"
#include "contract/functions.h"
#include "contract/storage.h"
#include "contract/types.h"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

constexpr int kMostWarps = 32;       // of a block of threads
constexpr Index kHashedBlocks = 32;  // blocks of bytes that a block of threads hashes

struct FingerprintArguments {
  const void* x;  // (n)
  Index n;
  Word64* sum;  // over all blocks of bytes
};

inline unsigned short bits_of(unsigned short x) { return x; }

// The fingerprinted numbers of a step.
template <class T>
struct Fingerprinted;
template <>
struct Fingerprinted<float> : Fingerprinted32 {};
template <>
struct Fingerprinted<double> : Fingerprinted64 {};

// h of block b of x (n elements), in thread 0 of the warp. Each thread takes 16 bytes of each half of the block, which
// are two pairs of words, and the threads' sums are added. aligned: x lies on a multiple of 16 bytes.
template <class Kind, class T>
inline Word64 warp_hash(const T* x, Index n, bool aligned, Index b) {
  static constexpr Keys keys = keys_of_words();
  constexpr Index kPerBlock = kFingerprintBytes / sizeof(T), kHalf = kPerBlock / 2;
  constexpr int kPerPair = 8 / sizeof(T), kPairs = Full<T>::kSize / kPerPair;
  const int lane = threadIdx.x % kWarp;
  const Index begin = b * kPerBlock + lane * Full<T>::kSize;
  Full<T> packs[2];
  if (aligned && (b + 1) * kPerBlock <= n) {
    for (int half = 0; half < 2; ++half) packs[half] = load_pack<Full<T>>(x + begin + half * kHalf);
  } else {  // zeros behind the last element
    for (int half = 0; half < 2; ++half) {
      for (int e = 0; e < Full<T>::kSize; ++e) {
        const Index i = begin + half * kHalf + e;
        packs[half].at[e] = i < n ? x[i] : T(0);
      }
    }
  }
  Word64 h = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      Word64 pair = 0;
#pragma unroll
      for (int e = 0; e < kPerPair; ++e) {
        const Word64 bits = Kind::canonical(bits_of(packs[half].at[p * kPerPair + e]));
        pair |= bits << (8 * sizeof(T) * e);
      }
      const Word64 key = keys.pair[half * kFingerprintBytes / 16 + lane * kPairs + p];
      h += Word64(unsigned(pair) + unsigned(key)) * (unsigned(pair >> 32) + unsigned(key >> 32));
    }
  }
#pragma unroll
  for (int by = kWarp / 2; by > 0; by /= 2) h += __shfl_down_sync(0xffffffffu, h, by);
  return h;
}

// sums[s] += the sum over blocks first..last-1 of mix(h_b ^ mix(before + b)) of array s, all of n elements; of a part
// of an array, `before` blocks lie before it. All threads of a block of threads call it.
template <class Kind, int kArrays, class T>
inline void add_block_sums(const T* const (&arrays)[kArrays], Index n, bool aligned, Index before, Index first,
                           Index last, Word64* sums) {
  __shared__ Word64 of_warps[kArrays][kMostWarps];
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
#pragma unroll 1
  for (int s = 0; s < kArrays; ++s) {
    Word64 sum = 0;
    for (Index b = first + warp; b < last; b += warps) {
      sum += mix(warp_hash<Kind>(arrays[s], n, aligned, b) ^ mix(before + b));
    }
    if (threadIdx.x % kWarp == 0) of_warps[s][warp] = sum;
  }
  __syncthreads();
  if (threadIdx.x < kArrays) {
    Word64 sum = 0;
    for (int w = 0; w < warps; ++w) sum += of_warps[threadIdx.x][w];
    atomicAdd(sums + threadIdx.x, sum);
  }
}

// The sum over the blocks of bytes of an array.
template <class Kind, class T>
void hash_array(const FingerprintArguments& a) {
  const T* const x[1] = {static_cast<const T*>(a.x)};
  const Index first = blockIdx.x * kHashedBlocks, blocks = ceil_div(a.n * sizeof(T), kFingerprintBytes);
  add_block_sums<Kind>(x, a.n, is_aligned(a.x), 0, first, smaller(first + kHashedBlocks, blocks), a.sum);
}

}  // namespace
}  // namespace samestep
