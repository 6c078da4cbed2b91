// Cuts the functions of one value into work items. No arithmetic: that is in contract/functions.h.
#include <algorithm>

#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Elements of a work item: some 10 microseconds, many times what it costs a thread to claim one.
constexpr Index kItem = 16384;

}  // namespace

void map_function(int function, Type type, const void* x, Index n, void* out) {
  struct Job {
    void (*map)(const void*, Index, void*);
    const char* x;
    char* out;
    Index n, size_of;
  } job{active_isa().functions[function].map[type], static_cast<const char*>(x), static_cast<char*>(out), n,
        bytes_of(type)};
  run_items(
      ceil_div(n, kItem),
      [](void* context, Index item) {
        const Job& j = *static_cast<const Job*>(context);
        const Index begin = item * kItem, at = begin * j.size_of;
        j.map(j.x + at, std::min(kItem, j.n - begin), j.out + at);
      },
      &job, n > kItem);
}

}  // namespace samestep
