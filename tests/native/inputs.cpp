#include "inputs.h"

#include <cstring>
#include <type_traits>

std::uint64_t random_word(std::uint64_t i, std::uint64_t seed) {
  std::uint64_t z = i * 0x9E3779B97F4A7C15 + (seed << 32);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

template <class T>
std::vector<T> finite_values(int size, int seed) {
  std::vector<T> values(size);
  for (int i = 0; i < size; ++i) values[i] = T(double(random_word(i + 1, seed) >> 40) / 8388608.0 - 1.0);
  return values;
}

template <class T>
std::vector<T> random_values(int size, int seed) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits mantissa = (Bits(1) << (sizeof(T) == 4 ? 23 : 52)) - 1;
  std::vector<T> values = finite_values<T>(size, seed);
  for (int i = 0; i < size; ++i) {
    if (random_word(i + 1, seed) & 7) continue;
    std::uint64_t pattern = random_word(i + 1, seed + 1);
    Bits bits = pattern >> 62 == 0 ? Bits(pattern) & mantissa : Bits(pattern);
    std::memcpy(&values[i], &bits, sizeof(bits));
  }
  return values;
}

template <class T>
void append_bytes(std::vector<std::uint8_t>& bytes, const std::vector<T>& values) {
  const std::size_t before = bytes.size();
  bytes.resize(before + values.size() * sizeof(T));
  std::uint8_t* to = bytes.data() + before;
  for (T value : values) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    Bits bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if (value != value) bits = sizeof(T) == 4 ? Bits(0x7fc00000) : Bits(0x7ff8000000000000);
    for (std::size_t i = 0; i < sizeof(bits); ++i) *to++ = std::uint8_t(bits >> (8 * i));
  }
}

#define INSTANTIATE(T)                                \
  template std::vector<T> finite_values<T>(int, int); \
  template std::vector<T> random_values<T>(int, int); \
  template void append_bytes<T>(std::vector<std::uint8_t>&, const std::vector<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
