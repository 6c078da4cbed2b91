// Cuts a batch norm into work items, finds it scratch memory, chooses where stores go. No arithmetic: batchnorm.h.
#include <algorithm>
#include <vector>

#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

constexpr Index kSmall = 32768;               // elements that are not worth waking a thread for
constexpr Index kItem = 65536;                // elements of an item of elementwise work
constexpr Index kChannelBytes = 1536 * 1024;  // of the second cache, for what one item reads twice
constexpr Index kRunBytes = 4096;             // planes smaller than this are taken several at a time
constexpr Index kPlaneItems = 16;             // at most; several groups of channels each, to fetch the next ahead
constexpr Index kStreamBytes = 8 << 20;       // larger results go past the caches

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

struct Work {
  const BatchNormKernel& kernel;
  BatchNorm b;
  Index values, blocks;  // of a channel
  Index together;        // channels whose planes are taken together

  Index elements() const { return values * b.channels; }
  Index slabs() const { return b.channels_last ? ceil_div(b.channels, kSumColumns) : b.channels; }

  // All of a range of channels, `together` at a time, read from memory once: planes only. While one group is written,
  // the next is fetched, or memory would stand half idle in the sums, which write nothing.
  void run_channels(Index begin, Index end) const {
    for (Index next; begin < end; begin = next) {
      next = std::min(end, begin + together);
      BatchNorm group = b;
      group.ahead = next < end ? (next - begin) * b.positions : 0;
      kernel.prepare(group, begin, next);
      kernel.add_blocks(group, begin, next, 0, blocks);
      kernel.finish(group, begin, next);
      for (Index n = 0; n < b.samples; ++n) {
        Index first = n * b.channels * b.positions;
        kernel.apply(group, first + begin * b.positions, first + next * b.positions);
      }
    }
  }

  // One block of one slab of columns, or of one channel of planes.
  void add_unit(Index unit) const {
    Index block = unit / slabs(), slab = unit % slabs(), width = b.channels_last ? kSumColumns : 1;
    kernel.add_blocks(b, slab * width, std::min(b.channels, (slab + 1) * width), block, block + 1);
  }
};

template <void (*run)(const Work&, Index begin, Index end)>
void run_all(Work& work, Index count, Index per_item) {
  struct Phase {
    const Work& work;
    Index count, per_item;
  } phase{work, count, std::max<Index>(1, per_item)};
  run_items(
      ceil_div(count, phase.per_item),
      [](void* context, Index item) {
        const Phase& p = *static_cast<const Phase*>(context);
        run(p.work, item * p.per_item, std::min(p.count, (item + 1) * p.per_item));
      },
      &phase);
}

void channels(const Work& w, Index begin, Index end) { w.run_channels(begin, end); }
void prepare(const Work& w, Index begin, Index end) { w.kernel.prepare(w.b, begin, end); }
void add_units(const Work& w, Index begin, Index end) {
  for (Index unit = begin; unit < end; ++unit) w.add_unit(unit);
}
void finish(const Work& w, Index begin, Index end) { w.kernel.finish(w.b, begin, end); }
// Backwards: the last that was read for the sums is still in the caches.
void apply(const Work& w, Index begin, Index end) {
  Index size = w.b.channels_last ? w.b.channels : 1, all = w.elements();
  w.kernel.apply(w.b, all - end * size, all - begin * size);
}

}  // namespace

void run_batchnorm(Type type, Direction direction, bool relu, BatchNorm job) {
  const Isa& isa = active_isa();
  Index size_of = bytes_of(type);
  Work work{isa.batchnorm[type][direction][relu], job, job.samples * job.positions, 0, 0};
  BatchNorm& b = work.b;
  work.blocks = ceil_div(work.values, kSumBlock);
  if (work.elements() == 0) return;

  // 32 rows of columns are summed as one row: see column_block. Doubles, so that either type is aligned.
  b.repeats = !b.channels_last ? 1 : b.channels <= kSumColumns ? 32 : 2;
  std::vector<double> scratch(ceil_div(kCoefficients * b.repeats * b.channels * size_of, 8) +
                              (direction == inference ? 0 : 2 * work.blocks * b.channels));
  b.coefficients = scratch.data();
  b.sums = scratch.data() + ceil_div(kCoefficients * b.repeats * b.channels * size_of, 8);
  b.stream = work.elements() * size_of > kStreamBytes && b.out != b.dy && b.out != b.x;

  bool small = work.elements() <= kSmall;
  Index channel_bytes = work.values * size_of * (direction == backward ? 2 : 1);
  if (!b.channels_last && direction != inference && !small && b.channels >= 8 && channel_bytes <= kChannelBytes) {
    work.together = std::min(ceil_div(kRunBytes, b.positions * size_of), kChannelBytes / channel_bytes);
    work.together = std::min(work.together, b.channels / 8);
    Index groups = ceil_div(b.channels, work.together);
    return run_all<channels>(work, b.channels, work.together * ceil_div(groups, kPlaneItems));
  }
  Index everything = work.elements();
  run_all<prepare>(work, b.channels, everything);
  if (direction != inference) {
    Index unit = std::min(work.values, kSumBlock) * (b.channels_last ? std::min(b.channels, kSumColumns) : 1);
    run_all<add_units>(work, work.blocks * work.slabs(), small ? everything : kItem / unit);
    run_all<finish>(work, b.channels, small ? everything : std::max<Index>(16, kItem / work.blocks));
  }
  Index size = b.channels_last ? b.channels : 1;
  run_all<apply>(work, work.elements() / size, small ? everything : kItem / size);
}

void update_running(Type type, const double* mean64, const double* var64, Index channels, Index values, double momentum,
                    Index batches, void* mean, void* var) {
  struct Update {
    const Isa& isa;
    Type type;
    const double *mean64, *var64;
    Index channels, values;
    double momentum;
    Index batches;
    void *mean, *var;
  } update{active_isa(), type, mean64, var64, channels, values, momentum, batches, mean, var};
  run_items(
      1,
      [](void* context, Index) {
        const Update& u = *static_cast<const Update*>(context);
        u.isa.update_running[u.type](u.mean64, u.var64, u.channels, u.values, u.momentum, u.batches, u.mean, u.var);
      },
      &update);
}

}  // namespace samestep
