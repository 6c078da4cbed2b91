// The inputs of python/samestep/proof/golden.py, word for word, and the bytes that its digests hash. T: float or
// double.
#pragma once

#include <cstdint>
#include <vector>

// Word i = 1, 2, ... of splitmix64 from state seed * 2^32.
std::uint64_t random_word(std::uint64_t i, std::uint64_t seed);

template <class T>
std::vector<T> finite_values(int size, int seed);

template <class T>
std::vector<T> random_values(int size, int seed);

// (((i*a + (i div 7)*b) mod m) - s)/d over the index i, in float64, then rounded.
template <class T>
std::vector<T> integer_values(long long size, int a, int b, int m, int s, double d) {
  std::vector<T> values(size);
  for (long long i = 0; i < size; ++i) values[i] = T(double((i * a + i / 7 * b) % m - s) / d);
  return values;
}

// Little-endian bytes, every NaN as the one quiet NaN.
template <class T>
void append_bytes(std::vector<std::uint8_t>& bytes, const std::vector<T>& values);
