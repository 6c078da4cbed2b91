// Cuts a batch norm into work items, allocates its scratch memory, chooses whether stores go past the caches. No
// arithmetic: that is in contract/batchnorm.h.
#include <algorithm>
#include <vector>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

constexpr Index kOneThreadElements = 32768;   // and fewer are not worth waking a thread for
constexpr Index kItemElements = 65536;        // of a work item of elementwise work
constexpr Index kChannelBytes = 1536 * 1024;  // of the second-level cache, for what one item reads twice
constexpr Index kForwardRun = 16384;          // bytes of x: smaller planes are processed several at a time;
constexpr Index kBackwardRun = 4096;          // with dy beside x, more gained nothing
constexpr Index kPlaneItems = 16;  // at most, or two a thread: one item reads several adjacent planes of every sample
constexpr Index kFetchedBytes = 1536 * 1024;  // of x and dy; fewer may lie in a cache, where fetching costs 4 %
constexpr Index kStreamBytes = 8 << 20;       // larger results are stored past the caches
constexpr Index kChannelsPerItem = 16;        // at least, in finish()

struct Work {
  const BatchNormKernel& kernel;
  BatchNorm b;
  Index values, blocks;  // of a channel: M = N*S terms, in blocks of kSumBlock
  Index group_channels;  // channels whose planes are processed together

  Index elements() const { return values * b.channels; }
  // Sets of channels whose block sums are computed at a time.
  Index slabs() const { return b.channels_last ? ceil_div(b.channels, kSumColumns) : b.channels; }

  // Planes only: everything for a range of channels, group_channels at a time, so that x is read from memory once and
  // from the cache afterwards.
  void run_channels(Index begin, Index end) const {
    for (Index next; begin < end; begin = next) {
      next = std::min(end, begin + group_channels);
      kernel.prepare(b, begin, next);
      kernel.add_blocks(b, begin, next, 0, blocks);
      kernel.finish(b, begin, next);
      for (Index n = 0; n < b.samples; ++n) {
        Index first = n * b.channels * b.positions;
        kernel.apply(b, first + begin * b.positions, first + next * b.positions);
      }
    }
  }

  // One block of one slab of columns, or of one channel of planes.
  void add_unit(Index unit) const {
    Index block = unit / slabs(), slab = unit % slabs(), width = b.channels_last ? kSumColumns : 1;
    kernel.add_blocks(b, slab * width, std::min(b.channels, (slab + 1) * width), block, block + 1);
  }
};

}  // namespace

void run_batchnorm(Type type, Direction direction, bool relu, BatchNorm job) {
  const Isa& isa = active_isa();
  Index size_of = bytes_of(type);
  Work work{isa.batchnorm[type][direction][relu], job, job.samples * job.positions, 0, 0};
  BatchNorm& b = work.b;
  work.blocks = ceil_div(work.values, kSumBlock);
  if (work.elements() == 0) return;

  // Coefficients by column are repeated: kLanes short rows are summed as one long row (column_block in sums.h), and
  // apply() joins rows and begins anywhere in the first, so that it needs twice as many: 4 where it may join two. More
  // than there are rows nobody reads. Allocated as doubles, which aligns either type.
  b.repeats = b.channels < kJoinedColumns ? kLanes : b.channels < kSumColumns ? 4 : 2;
  b.repeats = b.channels_last ? std::max<Index>(2, std::min(b.repeats, work.values)) : 1;
  std::vector<double> scratch(ceil_div(kCoefficients * b.repeats * b.channels * size_of, 8) +
                              (direction == inference ? 0 : 2 * work.blocks * b.channels));
  b.coefficients = scratch.data();
  b.sums = scratch.data() + ceil_div(kCoefficients * b.repeats * b.channels * size_of, 8);
  b.stream = work.elements() * size_of > kStreamBytes && b.out != b.dy && b.out != b.x;
  const Index arrays = direction == backward ? 2 : 1;  // that are read
  b.fetch = !b.channels_last && arrays * work.elements() * size_of > kFetchedBytes;

  const bool small = work.elements() <= kOneThreadElements;
  Index channel_bytes = work.values * size_of * arrays;
  // Planes, each channel within the cache, and enough channels for some threads: x is read from memory once.
  if (!b.channels_last && direction != inference && !small && b.channels >= 8 && channel_bytes <= kChannelBytes) {
    Index run = direction == forward ? kForwardRun : kBackwardRun;
    work.group_channels = std::min(ceil_div(run, b.positions * size_of), kChannelBytes / channel_bytes);
    const Index threads = get_num_threads(), items = std::max(kPlaneItems, 2 * threads);
    work.group_channels = std::min(work.group_channels, std::max<Index>(1, b.channels / std::max<Index>(8, threads)));
    Index groups = ceil_div(b.channels, work.group_channels);
    return run_parts(b.channels, work.group_channels * ceil_div(groups, items),
                     [&](Index begin, Index end) { work.run_channels(begin, end); });
  }
  // Otherwise one phase after the other over all of x, which is read twice.
  Index everything = work.elements();
  run_parts(b.channels, everything, [&](Index begin, Index end) { work.kernel.prepare(b, begin, end); });
  if (direction != inference) {
    Index unit = std::min(work.values, kSumBlock) * (b.channels_last ? std::min(b.channels, kSumColumns) : 1);
    run_parts(work.blocks * work.slabs(), small ? everything : kItemElements / unit, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) work.add_unit(i);
    });
    run_parts(b.channels, small ? everything : std::max(kChannelsPerItem, kItemElements / work.blocks),
              [&](Index begin, Index end) { work.kernel.finish(b, begin, end); });
  }
  // From the end: what the sums read last is still in the caches.
  Index size = b.channels_last ? b.channels : 1;
  run_parts(everything / size, small ? everything : kItemElements / size,
            [&](Index begin, Index end) { work.kernel.apply(b, everything - end * size, everything - begin * size); });
}

void update_running(Type type, const double* mean64, const double* var64, Index channels, Index values, double momentum,
                    Index batches, void* mean, void* var) {
  FpMode mode;
  active_isa().update_running[type](mean64, var64, channels, values, momentum, batches, mean, var);
}

}  // namespace samestep
