// Cuts the work on leaves into work items. No arithmetic: that is in contract/leaves.h.
#include <algorithm>

#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Elements of a work item: some 10 microseconds, many times what it costs a thread to claim one.
constexpr Index kItemElements = 16384;
// Elements that are rounded to 16 bits at a time: they lie in the nearest cache until then.
constexpr Index kChunk = 2048;

const char* at(const void* x, Index size_of, Index i) { return static_cast<const char*>(x) + i * size_of; }
char* at(void* x, Index size_of, Index i) { return static_cast<char*>(x) + i * size_of; }

template <class Run>
void run_elements(Index n, const Run& run) {
  run_parts(n, kItemElements, run, n > kItemElements);
}

}  // namespace

void weigh_leaf(Type type, Storage storage, const void* g, double weight, Index n, void* out) {
  const Isa& isa = active_isa();
  const Index size_of = bytes_of(type);
  run_elements(n, [&](Index begin, Index end) {
    const void* from = g == nullptr ? nullptr : at(g, storage == as_is ? size_of : 2, begin);
    void* to = at(out, size_of, begin);
    if (storage != as_is && weight != 0.0) {
      isa.storage[storage].widen(from, end - begin, static_cast<float*>(to));
      from = to;
    }
    isa.leaves[type].weigh(weight, from, end - begin, to);
  });
}

void add_leaves(Type type, const void* other, Index n, void* sum) {
  const Isa& isa = active_isa();
  const Index size_of = bytes_of(type);
  run_elements(n, [&](Index begin, Index end) {
    isa.leaves[type].add(at(other, size_of, begin), end - begin, at(sum, size_of, begin));
  });
}

void average_leaves(Type type, const void* total, double weight, Index n, Storage storage, void* out) {
  const Isa& isa = active_isa();
  const Index size_of = bytes_of(type);
  run_elements(n, [&](Index begin, Index end) {
    if (storage == as_is) {
      return isa.leaves[type].average(weight, at(total, size_of, begin), end - begin, at(out, size_of, begin));
    }
    float mean[kChunk];
    for (Index i = begin; i < end; i += kChunk) {
      const Index count = std::min(kChunk, end - i);
      isa.leaves[type].average(weight, at(total, size_of, i), count, mean);
      isa.storage[storage].narrow(mean, count, at(out, 2, i));
    }
  });
}

}  // namespace samestep
