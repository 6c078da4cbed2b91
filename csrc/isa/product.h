// The matrix product's loops on a processor: one tile of the result. No formulas: those are in contract/product.h.
// Compiled for one instruction set after another.
//
// Operands are packed into panels, in the order in which they are read (Goto & van de Geijn, Anatomy of
// high-performance matrix multiplication, 2008): A by some rows, B by some vectors of columns, each 256 terms deep. Two
// panels make one piece of C, whose sums stay in registers. A panel of A stays in the first cache, and those of B pass
// by it from the second. Rows and vectors of a piece are template parameters, so that the last ones run the loop of all
// others.
#pragma once
#include "contract/fetch.h"
#include "contract/product.h"
#include "contract/types.h"
#include "contract/vector.h"
#include "isa/kernels.h"

namespace samestep {
namespace {

// A piece of C: as many vectors of sums as registers hold, beside the vectors of B and one of A.
#if defined(__AVX512F__)
constexpr int kPieceRows = 12, kPieceVectors = 2;  // 24 sums of 32 registers
#elif defined(__AVX2__)
constexpr int kPieceRows = 4, kPieceVectors = 3;  // 12 of 16
#elif defined(__aarch64__)
constexpr int kPieceRows = 8, kPieceVectors = 3;  // 24 of 32
#else
constexpr int kPieceRows = 4, kPieceVectors = 1;
#endif

constexpr Index kAhead = 8;  // terms from those of B that are used to those that are fetched
// Where so few panels of A read each of B, it is read where it lies: packing would cost as much as it saves.
constexpr Index kFewPanels = 8;

template <class T>
constexpr Index kVectorLanes = kVectorBytes / sizeof(T);

// Four rows of four values, turned into their columns.
template <class T>
struct Square {
  typedef T Row __attribute__((vector_size(4 * sizeof(T))));
  Row row[4];

  void transpose() {
    const Row a = row[0], b = row[1], c = row[2], d = row[3];
    if constexpr (sizeof(T) == 4) {  // shuffles that are one instruction each
      const Row ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Row cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      row[0] = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5), row[1] = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
      row[2] = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5), row[3] = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
    } else {
      const Row ac0 = __builtin_shufflevector(a, c, 0, 1, 4, 5), ac2 = __builtin_shufflevector(a, c, 2, 3, 6, 7);
      const Row bd0 = __builtin_shufflevector(b, d, 0, 1, 4, 5), bd2 = __builtin_shufflevector(b, d, 2, 3, 6, 7);
      row[0] = __builtin_shufflevector(ac0, bd0, 0, 4, 2, 6), row[1] = __builtin_shufflevector(ac0, bd0, 1, 5, 3, 7);
      row[2] = __builtin_shufflevector(ac2, bd2, 0, 4, 2, 6), row[3] = __builtin_shufflevector(ac2, bd2, 1, 5, 3, 7);
    }
  }
};

// to (depth, width) = x (count, depth)^T; the columns from `count` on are +0. `across` and `along`: the strides of x
// between its rows and in them.
template <class T>
void pack(const T* x, Index across, Index along, Index count, Index depth, Index width, T* to) {
  Index i = 0;
  if (across == 1) {
    // Rows of the panel lie as they are read.
    using V = typename Vectors<T>::Full;
    constexpr Index lanes = kVectorLanes<T>;
    for (Index p = 0; p < depth; ++p) {
      const T* from = x + p * along;
      for (i = 0; i + lanes <= count; i += lanes) store(to + p * width + i, load<V>(from + i));
      for (; i + 4 <= count; i += 4) __builtin_memcpy(to + p * width + i, from + i, 4 * sizeof(T));
    }
  } else if (along == 1) {
    for (; i + 4 <= count; i += 4) {
      Index p = 0;
      for (; p + 4 <= depth; p += 4) {
        Square<T> square;
        for (int r = 0; r < 4; ++r) __builtin_memcpy(&square.row[r], x + (i + r) * across + p, 4 * sizeof(T));
        square.transpose();
        for (int r = 0; r < 4; ++r) __builtin_memcpy(to + (p + r) * width + i, &square.row[r], 4 * sizeof(T));
      }
      for (; p < depth; ++p) {
        for (int r = 0; r < 4; ++r) to[p * width + i + r] = x[(i + r) * across + p];
      }
    }
  }
  for (; i < count; ++i) {
    for (Index p = 0; p < depth; ++p) to[p * width + i] = x[i * across + p * along];
  }
  for (; i < width; ++i) {
    for (Index p = 0; p < depth; ++p) to[p * width + i] = T(0);
  }
}

// An operand that is read where it lies: its strides from row to row of A, or column to column of B, and from term to
// term.
template <class T>
struct Strided {
  const T* x;
  Index across, along;
  static constexpr bool kIsInMemory = true;

  bool can_be_read_in_place() const { return across == 1; }
  const T* at(Index i, Index p) const { return x + i * across + p * along; }
  void pack(Index i, Index count, Index p, Index depth, Index width, T* to) const {
    samestep::pack(at(i, p), across, along, count, depth, width, to);
  }
};

// Where a tile of C goes, and what is done to its elements at the end.
template <class T>
struct Target {
  T* c;
  Index stride;              // from one row to the next
  const T *bias, *row_bias;  // of each column, of each row, or nullptr
  bool relu;
};

// Where a piece of C goes, and what is done to its sums before.
template <class T>
struct Piece : Target<T> {
  Index columns;           // of this piece
  bool is_first, is_last;  // block of terms
};

// c = the element of C, with what is written there, from the sums of one block of terms. X: T or a vector.
template <class X, class T>
inline void finish(const Piece<T>& to, const T* sum, Index r, Index j, T* c) {
  X y = load<X>(sum);
  if (!to.is_first) y = load<X>(c) + y;
  if (to.is_last && to.bias != nullptr) y = y + load<X>(to.bias + j);
  if (to.is_last && to.row_bias != nullptr) y = y + broadcast<X>(to.row_bias[r]);
  if (to.is_last && to.relu) y = relu_of(y);
  store(c, y);
}

// A piece (rows, vectors) of C from a panel of A (depth, rows) and one of B (depth, vectors), whose rows are b_stride
// apart.
template <class T, int rows, int vectors>
void piece(const T* a, const T* b, Index b_stride, Index depth, const Piece<T>& to) {
  using V = typename Vectors<T>::Full;
  constexpr Index lanes = kVectorLanes<T>;
  V s[rows][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) s[r][v] = V{};
  }
  // What is read at the end: it comes while the sums are formed.
  for (int r = 0; r < rows; ++r) fetch(to.c + r * to.stride, to.columns);
  for (Index p = 0; p < depth; ++p, a += rows, b += b_stride) {
    V row[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      row[v] = load<V>(b + v * lanes);
      __builtin_prefetch(b + kAhead * b_stride + v * lanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const V x = broadcast<V>(a[r]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) s[r][v] = fused(x, row[v], s[r][v]);
    }
  }
  alignas(kVectorBytes) T sums[rows][vectors * lanes];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) store(&sums[r][v * lanes], s[r][v]);
  }
  for (int r = 0; r < rows; ++r) {
    T* c = to.c + r * to.stride;
    Index j = 0;
    for (; j + lanes <= to.columns; j += lanes) finish<V>(to, &sums[r][j], r, j, c + j);
    for (; j < to.columns; ++j) finish<T>(to, &sums[r][j], r, j, c + j);
  }
}

// The function of each size of a piece: [rows - 1][vectors - 1].
template <class T>
using PieceFunction = void (*)(const T*, const T*, Index, Index, const Piece<T>&);
template <class T, int rows, int... vectors>
constexpr void fill_row(PieceFunction<T> (&row)[kPieceVectors]) {
  if constexpr (sizeof...(vectors) < kPieceVectors)
    fill_row<T, rows, vectors..., sizeof...(vectors) + 1>(row);
  else
    ((row[vectors - 1] = piece<T, rows, vectors>), ...);
}
template <class T>
struct Pieces {
  PieceFunction<T> of[kPieceRows][kPieceVectors];
  template <int rows>
  constexpr void fill() {
    fill_row<T, rows>(of[rows - 1]);
    if constexpr (rows > 1) fill<rows - 1>();
  }
  constexpr Pieces() : of{} { fill<kPieceRows>(); }
};
template <class T>
constexpr Pieces<T> pieces{};

// Rows and columns of C, cut into panels of nearly one size.
struct Panels {
  Index n, count;
  Panels(Index n, Index most) : n(n), count(ceil_div(n, most)) {}
  Index begin(Index i) const { return i * n / count; }
  Index size(Index i) const { return begin(i + 1) - begin(i); }
};

// One tile of C, of `terms` terms. scratch holds a panel of A, then the panels of B for all columns: each as deep as
// the first block of terms, of kPieceRows rows, and of columns rounded up to vectors. A and B are Strided, or have its
// pack(); kIsInMemory says whether a B has the other functions too.
template <class T, class A, class B>
void tile(const A& a, const B& b, Index terms, const Target<T>& c, Index rows, Index columns, void* scratch) {
  constexpr Index lanes = kVectorLanes<T>;
  const Panels by_row(rows, kPieceRows), by_vector(ceil_div(columns, lanes), kPieceVectors);
  T* packed_a = static_cast<T*>(scratch);
  T* packed_b = packed_a + kPieceRows * (terms < kProductBlock ? terms : kProductBlock);

  // Panel j of B: `count` of the tile's columns from `first` on, in `width` lanes; packed, or read where it lies.
  struct Strip {
    Index first, width, count;
    bool is_packed;
  };
  bool reads_in_place = false;
  if constexpr (B::kIsInMemory) reads_in_place = by_row.count <= kFewPanels && b.can_be_read_in_place();
  const auto strip = [&](Index j) {
    const Index first = by_vector.begin(j) * lanes, width = by_vector.size(j) * lanes, left = columns - first;
    return Strip{first, width, left < width ? left : width, !reads_in_place || left < width};
  };

  Index k = 0;
  do {  // once also where there are no terms
    const Index depth = terms - k < kProductBlock ? terms - k : kProductBlock;
    for (Index j = 0; j < by_vector.count; ++j) {
      const Strip s = strip(j);
      if (s.is_packed) b.pack(s.first, s.count, k, depth, s.width, packed_b + s.first * depth);
    }
    for (Index i = 0; i < by_row.count; ++i) {
      const Index r = by_row.begin(i), n = by_row.size(i);
      a.pack(r, n, k, depth, n, packed_a);
      for (Index j = 0; j < by_vector.count; ++j) {
        const Strip s = strip(j);
        const Piece<T> to{{c.c + r * c.stride + s.first, c.stride, c.bias == nullptr ? nullptr : c.bias + s.first,
                           c.row_bias == nullptr ? nullptr : c.row_bias + r, c.relu},
                          s.count,
                          k == 0,
                          k + depth >= terms};
        const auto piece_of_size = pieces<T>.of[n - 1][by_vector.size(j) - 1];
        if (s.is_packed) {
          piece_of_size(packed_a, packed_b + s.first * depth, s.width, depth, to);
        } else if constexpr (B::kIsInMemory) {
          piece_of_size(packed_a, b.at(s.first, k), b.along, depth, to);
        }
      }
    }
    k += depth;
  } while (k < terms);
}

// ---- the functions of the table ----

template <class T>
void product_tile(const Product& p, Index row, Index rows, Index column, Index columns, void* scratch) {
  const T *x = static_cast<const T*>(p.a), *w = static_cast<const T*>(p.b), *bias = static_cast<const T*>(p.bias);
  tile<T>(Strided<T>{x + row * p.a_row, p.a_row, p.a_k}, Strided<T>{w + column * p.b_column, p.b_column, p.b_k}, p.k,
          Target<T>{static_cast<T*>(p.c) + row * p.c_row + column, p.c_row, bias == nullptr ? nullptr : bias + column,
                    nullptr, p.relu},
          rows, columns, scratch);
}

// out (rows, columns): rows begin..end-1 of dy, +0 where the ReLU cut y off.
template <class T>
void relu_gradient(const Matrix& dy, const Matrix& y, Index begin, Index end, void* out) {
  for (Index i = begin; i < end; ++i) {
    const T* from = static_cast<const T*>(dy.data) + i * dy.row_stride;
    T* to = static_cast<T*>(out) + i * dy.columns;
    if (y.data == nullptr) {
      for (Index j = 0; j < dy.columns; ++j) to[j] = from[j * dy.column_stride];
      continue;
    }
    const T* h = static_cast<const T*>(y.data) + i * y.row_stride;
    if (dy.column_stride == 1 && y.column_stride == 1) {
      for (Index j = 0; j < dy.columns; ++j) to[j] = relu_gradient_of(from[j], h[j]);
    } else {
      for (Index j = 0; j < dy.columns; ++j)
        to[j] = relu_gradient_of(from[j * dy.column_stride], h[j * y.column_stride]);
    }
  }
}

template <class T>
void round_sums(const double* sums, Index n, void* out) {
  for (Index i = 0; i < n; ++i) static_cast<T*>(out)[i] = T(sums[i]);
}

}  // namespace
}  // namespace samestep
