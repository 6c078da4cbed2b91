// Fingerprints: 64 bits of an array, by which two runs are compared. Integer arithmetic alone, modulo 2^32 and 2^64.
// They find accidents; who looks for forgers chains sha256 digests. No threads. The NumPy twin is
// backends/reference/fingerprint.py.
//
//   words     the little-endian bytes in C order as words x_0, x_1, ... of 32 bits, every NaN as digests have it, zeros
//             up to a multiple of 256 words
//   keys      k_i = the low 32 bits of mix(i), i = 0..255
//   block b   h_b = sum over i < 128 of (x_2i + k_2i)*(x_2i+1 + k_2i+1), each sum modulo 2^32, of its 256 words
//   of all    mix((sum over b of mix(h_b ^ mix(b))) ^ mix(n)), where n is the number of bytes
//
// Sums modulo 2^64 may be taken in any order: any thread or worker adds the blocks that it has. The products are NH of
// UMAC (Black et al. 1999); mix is splitmix64's step (Steele et al. 2014).
#pragma once
#include "contract/fp.h"
#include "contract/types.h"
#include "contract/vector.h"

namespace samestep {
namespace {

typedef unsigned long long Word64;

inline constexpr HD Word64 mix(Word64 z) {
  z += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// Two neighbouring words, each with its key: the first in the low half.
struct Keys {
  Word64 pair[kFingerprintBytes / 8];
};

constexpr Keys keys_of_words() {
  Keys keys{};
  for (Word64 i = 0; i < kFingerprintBytes / 8; ++i) {
    keys.pair[i] = (mix(2 * i) & 0xffffffff) | (mix(2 * i + 1) << 32);
  }
  return keys;
}

// from[i]: what zeros from pair i of a block to its end add to its hash.
struct ZeroHashes {
  Word64 from[kFingerprintBytes / 8 + 1];
};

constexpr ZeroHashes hashes_of_zeros() {
  const Keys keys = keys_of_words();
  ZeroHashes zeros{};
  for (int i = kFingerprintBytes / 8 - 1; i >= 0; --i) {
    zeros.from[i] = zeros.from[i + 1] + (keys.pair[i] & 0xffffffff) * (keys.pair[i] >> 32);
  }
  return zeros;
}

// Numbers as their bits, a vector of them at a time, on a GPU one. infinity: the largest magnitude that is no NaN;
// quiet: the one NaN.
template <class Bits, Bits infinity, Bits quiet>
struct Floating {
  using Element = Bits;
#ifdef __CUDACC__
  static HD Bits canonical(Bits x) { return (x & Bits(Bits(~Bits(0)) >> 1)) > infinity ? quiet : x; }
#else
  typedef Bits Vector __attribute__((vector_size(kVectorBytes)));
  static Vector canonical(Vector x) {
    const Vector is_nan = (Vector)((x & Bits(Bits(~Bits(0)) >> 1)) > infinity);
    return (x & ~is_nan) | (quiet & is_nan);
  }
#endif
};
using Fingerprinted32 = Floating<unsigned, 0x7f800000u, 0x7fc00000u>;
using Fingerprinted64 = Floating<Word64, 0x7ff0000000000000, 0x7ff8000000000000>;
using FingerprintedF16 = Floating<unsigned short, 0x7c00, 0x7e00>;
using FingerprintedBF16 = Floating<unsigned short, 0x7f80, 0x7fc0>;
// Bits that are no numbers: the lower halves of split parameters.
struct FingerprintedBits {
  using Element = unsigned short;
#ifdef __CUDACC__
  static HD Element canonical(Element x) { return x; }
#else
  typedef unsigned short Vector __attribute__((vector_size(kVectorBytes)));
  static Vector canonical(Vector x) { return x; }
#endif
};

#ifndef __CUDACC__  // a GPU's loops are in gpu/fingerprint.cuh

typedef unsigned Words __attribute__((vector_size(kVectorBytes)));

// The keys of a vector of words that begins at byte i of its block.
inline Words keys_of(Index i) {
  static constexpr Keys keys = keys_of_words();
  return load<Words>(keys.pair + i / 8);
}

// The products of a vector of words.
template <class Kind>
inline Words64 hash_vector(const char* x, Index i) {
  return product_of_halves((Words64)((Words)Kind::canonical(load<typename Kind::Vector>(x)) + keys_of(i)));
}

// What zeros add to a block's hash after the vector that ends at this byte or holds it.
inline Word64 hash_of_zeros(Index byte) {
  static constexpr ZeroHashes zeros = hashes_of_zeros();
  return zeros.from[(byte + kVectorBytes - 1) / kVectorBytes * kVectorBytes / 8];
}

// h of a whole block.
template <class Kind>
inline Word64 hash_block(const char* x) {
  Words64 h{};
  for (Index i = 0; i < kFingerprintBytes; i += kVectorBytes) h += hash_vector<Kind>(x + i, i);
  return sum_of_lanes(h);
}

// The sum over blocks first..last-1 of x (n elements) of mix(h_b ^ mix(b)), where x begins with block `begin` of the
// array that it is a part of.
template <class Kind>
Word64 fingerprint_blocks(const void* x, Index n, Index first, Index last, Index begin) {
  constexpr Index kCount = kFingerprintBytes / sizeof(typename Kind::Element);
  const char* bytes = static_cast<const char*>(x);
  Word64 sum = 0;
  for (Index b = first; b < last; ++b) {
    const char* block = bytes + b * kFingerprintBytes;
    Word64 h;
    if ((b + 1) * kCount <= n) {
      h = hash_block<Kind>(block);
    } else {
      char padded[kFingerprintBytes] = {};
      __builtin_memcpy(padded, block, (n - b * kCount) * sizeof(typename Kind::Element));
      h = hash_block<Kind>(padded);
    }
    sum += mix(h ^ mix(begin + b));
  }
  return sum;
}

inline Word64 finish_fingerprint(Word64 sum, Word64 bytes) { return mix(sum ^ mix(bytes)); }

#endif  // __CUDACC__

}  // namespace
}  // namespace samestep
