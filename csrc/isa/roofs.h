// The roof of a rule that memory bounds: the same streams read and written, with next to no arithmetic. For benchmarks.
#pragma once
#include "contract/fetch.h"
#include "contract/fp.h"
#include "contract/types.h"
#include "isa/kernels.h"

namespace samestep {
namespace {

// s = s + c g for each stream s that is written; g and each s (n). With c = 0 the streams keep their values, so that a
// roof can be measured on the arrays of an optimizer. `ahead`: fetches kRoofAhead elements ahead, never past the end.
constexpr Index kRoofRun = 64, kRoofAhead = 256;

template <bool ahead, class... Streams>
void roof_loop(float c, Index n, const float* __restrict g, Streams* __restrict... written) {
  const Index fetches_end = ahead ? n - kRoofAhead - kRoofRun : 0;
  Index i = 0;
  for (; i + kRoofRun <= n; i += kRoofRun) {
    if (ahead && i < fetches_end) {
      fetch(g + i + kRoofAhead, kRoofRun);
      (fetch(written + i + kRoofAhead, kRoofRun), ...);
    }
    for (Index j = i; j < i + kRoofRun; ++j) {
      const float x = c * g[j];
      ((written[j] = written[j] + x), ...);
    }
  }
  for (; i < n; ++i) {
    const float x = c * g[i];
    ((written[i] = written[i] + x), ...);
  }
}

// roof_loop for elements begin..end-1 of g and of written[0], ..., written[n_written - 1].
template <bool ahead, int n_written, class... Streams>
void roof(float c, const float* g, float* const* written, Index begin, Index end, Streams*... head) {
  if constexpr (sizeof...(Streams) == n_written) {
    roof_loop<ahead>(c, end - begin, g + begin, (head + begin)...);
  } else {
    roof<ahead, n_written>(c, g, written + 1, begin, end, head..., *written);
  }
}

template <int n_written>
constexpr RoofKernels roof_kernels = {{roof<false, n_written>, roof<true, n_written>}};

}  // namespace
}  // namespace samestep
