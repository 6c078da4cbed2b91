// A square of values in vectors, turned about its diagonal without a way through memory. No arithmetic.
#pragma once
#include "contract/vector.h"

namespace samestep {
namespace {

// 0, 1, ..., n - 1.
template <int... i>
struct Numbers {};
template <int n, int... i>
struct NumbersBelow : NumbersBelow<n - 1, n - 1, i...> {};
template <int... i>
struct NumbersBelow<0, i...> {
  using Type = Numbers<i...>;
};

// n rows of n values, n a power of 2.
template <class T, int n>
struct Square {
  typedef T Row __attribute__((vector_size(n * sizeof(T))));
  Row row[n];

  // The transpose of the square at `from`, whose rows are `stride` values apart.
  //
  // Exchanges the blocks of d rows and d columns that lie across the diagonal, in each square of 2d of them, for d =
  // n/2 on reading, which halves of rows do, then 1, 2, 4, ... (Eklundh, A fast computer method for matrix transposing,
  // 1972). A row takes one instruction each time.
  void read_transposed(const T* from, long long stride) {
    read_halves(from, stride, typename NumbersBelow<n>::Type());
    exchange<1>(typename NumbersBelow<n>::Type());
  }
  void write(T* to, long long stride) const {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) __builtin_memcpy(to + i * stride, &row[i], sizeof(Row));
  }

 private:
  template <int... i>
  void read_halves(const T* from, long long stride, Numbers<i...>) {
    typedef T Half __attribute__((vector_size(n / 2 * sizeof(T))));
#pragma GCC unroll 16
    for (int r = 0; r < n; ++r) {
      const T* at = from + r % (n / 2) * stride + r / (n / 2) * (n / 2);
      row[r] = __builtin_shufflevector(load<Half>(at), load<Half>(at + n / 2 * stride), i...);
    }
  }
  template <int d, int... i>
  void exchange(Numbers<i...> numbers) {
    if constexpr (d < n / 2) {
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r) {
        if ((r & d) != 0) continue;
        const Row a = row[r], b = row[r + d];
        row[r] = __builtin_shufflevector(a, b, (i & d ? n + i - d : i)...);
        row[r + d] = __builtin_shufflevector(a, b, (i & d ? n + i : i + d)...);
      }
      exchange<2 * d>(numbers);
    }
  }
};

}  // namespace
}  // namespace samestep
