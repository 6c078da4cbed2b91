#include "sha256.h"

#include <array>

std::string sha256_hex(std::vector<std::uint8_t> data) {
  // The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
  static const std::uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<std::uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  auto rotr = [](std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); };

  const std::uint64_t bits = data.size() * 8;
  data.push_back(0x80);
  while (data.size() % 64 != 56) data.push_back(0);
  for (int i = 7; i >= 0; --i) data.push_back(std::uint8_t(bits >> (8 * i)));

  // A round renames seven of the eight words: eight rounds in a row have each word back in its place.
  using Word = std::uint32_t;
  const auto round = [&](Word a, Word b, Word c, Word& d, Word e, Word f, Word g, Word& h, Word of_message) {
    const Word t1 = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + of_message;
    d += t1;
    h = t1 + (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
  };
  for (std::size_t block = 0; block < data.size(); block += 64) {
    Word w[64];
    for (int i = 0; i < 16; ++i) {
      const std::uint8_t* p = &data[block + 4 * i];
      w[i] = Word(p[0]) << 24 | Word(p[1]) << 16 | Word(p[2]) << 8 | p[3];
    }
    for (int i = 16; i < 64; ++i) {
      const Word s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const Word s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    Word a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], last = h[7];
    for (int i = 0; i < 64; i += 8) {
      round(a, b, c, d, e, f, g, last, k[i] + w[i]);
      round(last, a, b, c, d, e, f, g, k[i + 1] + w[i + 1]);
      round(g, last, a, b, c, d, e, f, k[i + 2] + w[i + 2]);
      round(f, g, last, a, b, c, d, e, k[i + 3] + w[i + 3]);
      round(e, f, g, last, a, b, c, d, k[i + 4] + w[i + 4]);
      round(d, e, f, g, last, a, b, c, k[i + 5] + w[i + 5]);
      round(c, d, e, f, g, last, a, b, k[i + 6] + w[i + 6]);
      round(b, c, d, e, f, g, last, a, k[i + 7] + w[i + 7]);
    }
    const Word found[8] = {a, b, c, d, e, f, g, last};
    for (int i = 0; i < 8; ++i) h[i] += found[i];
  }

  std::string hex;
  for (std::uint32_t word : h) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  }
  return hex;
}
