// The root of vectors against the processor's: every float32, and every estimate within 2^-14 of the truth, whichever
// processor makes it. Argument: every so many mantissas for the second part (1: all of them, a minute).
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "vector.h"

using namespace samestep;

namespace {

float from_bits(std::uint32_t bits) { return load<float>(&bits); }
std::uint32_t bits_of(float x) { return load<std::uint32_t>(&x); }

int differing(Floats a, __m512 b) { return __builtin_popcount(_mm512_cmpneq_epi32_mask((__m512i)a, (__m512i)b)); }

const __m512i kCount = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);

}  // namespace

int main(int, char** argv) {
  const std::uint32_t stride = std::atoi(argv[1]);
  std::int64_t wrong = 0, roots = 0;
  for (std::int64_t bits = 0; bits < std::int64_t(1) << 32; bits += 16, roots += 16) {
    const __m512i x = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(bits)), kCount);
    wrong += differing(root((Floats)x), _mm512_sqrt_ps((__m512)x));
  }
  // Scaled by powers of 4, all roots are those of 1 <= x < 4.
  std::int64_t estimates = 0;
  for (std::uint32_t bits = bits_of(1.0f); bits < bits_of(4.0f); bits += stride) {
    const float x = from_bits(bits);
    const double truth = 1.0 / __builtin_sqrt(static_cast<double>(x));
    const std::uint32_t first = bits_of(static_cast<float>(truth * (1.0 - 1.0 / 16384)));
    const std::uint32_t last = bits_of(static_cast<float>(truth * (1.0 + 1.0 / 16384)));
    const __m512 wide = _mm512_set1_ps(x), expected = _mm512_sqrt_ps(wide);
    for (std::uint32_t y = first; y <= last; y += 16, estimates += 16) {
      wrong += differing(root_from((Floats)wide, (Floats)_mm512_add_epi32(_mm512_set1_epi32(y), kCount)), expected);
    }
  }
  std::printf("%lld roots, %lld estimates, %lld wrong\n", static_cast<long long>(roots),
              static_cast<long long>(estimates), static_cast<long long>(wrong));
  return wrong != 0;
}
