// Cuts the functions of one value into work items. No arithmetic: that is in contract/functions.h.
#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Elements of a work item: some 10 microseconds, many times what it costs a thread to claim one.
constexpr Index kItemElements = 16384;

}  // namespace

void map_function(int function, Type type, const void* x, Index n, void* out) {
  const auto map = active_isa().functions[function].map[type];
  const Index size_of = bytes_of(type);
  const char* from = static_cast<const char*>(x);
  char* to = static_cast<char*>(out);
  run_parts(
      n, kItemElements, [&](Index begin, Index end) { map(from + begin * size_of, end - begin, to + begin * size_of); },
      n > kItemElements);
}

}  // namespace samestep
