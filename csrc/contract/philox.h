// The counter-based generator, whose words drawn rows (sampling.h) and stochastic rounding take. Integers only. The
// Python twin is NumPy's Philox.
#pragma once
#include <cstdint>

#include "contract/fp.h"

namespace samestep {

#ifdef __CUDACC__
typedef unsigned long long PhiloxWord;
inline HD PhiloxWord upper_half(PhiloxWord a, PhiloxWord b) { return __umul64hi(a, b); }
#else
typedef std::uint64_t PhiloxWord;
inline PhiloxWord upper_half(PhiloxWord a, PhiloxWord b) {
  __extension__ typedef unsigned __int128 Wide;
  return PhiloxWord((Wide(a) * b) >> 64);
}
#endif

// words (4) = the block at a counter: Philox4x64-10 of Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2,
// 3". Each of ten rounds: two products of 128 bits; their halves are swapped and xored with the other words and the
// key. Words are named, not indexed: gcc 12 keeps an array in memory, where every round waits for its stores.
inline HD void philox(const PhiloxWord (&counter)[4], PhiloxWord seed, PhiloxWord* words) {
  const PhiloxWord a = 0xD2E7470EE14C6C93, b = 0xCA5A826395121157;
  PhiloxWord w0 = counter[0], w1 = counter[1], w2 = counter[2], w3 = counter[3], k0 = seed, k1 = 0;
  for (int round = 0; round < 10; ++round) {
    const PhiloxWord first = w0, third = w2;
    w0 = upper_half(b, third) ^ w1 ^ k0;
    w1 = b * third;
    w2 = upper_half(a, first) ^ w3 ^ k1;
    w3 = a * first;
    k0 += 0x9E3779B97F4A7C15;  // the fractions of the golden ratio and of the square root of 3
    k1 += 0xBB67AE8584CAA73B;
  }
  words[0] = w0;
  words[1] = w1;
  words[2] = w2;
  words[3] = w3;
}

}  // namespace samestep
