// Prefetches what will be read soon. No arithmetic, no instruction set of its own.
#pragma once
#include "contract/types.h"

namespace samestep {

// Prefetches x[0], ..., x[n - 1] into all caches or, with level 2, into all but the first. Always inlined: the files of
// an instruction set may leave no symbols, and gcc 12 drops a call of a function that only prefetches.
template <int level = 3, class T>
__attribute__((always_inline)) inline void fetch(const T* x, Index n) {
#ifndef __CUDACC__  // a GPU hides the latency of memory behind other threads
  const char* end = reinterpret_cast<const char*>(x + n);
  for (const char* line = reinterpret_cast<const char*>(x); line < end; line += 64) __builtin_prefetch(line, 0, level);
#endif
}

}  // namespace samestep
