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
  bool small;            // so small that one thread does it all
  Index group_channels;  // channels whose planes are processed together
  std::vector<double> coefficients;

  // Coefficients by column are repeated: kLanes short rows are summed as one long row (column_block in sums.h), and
  // apply() joins rows and begins anywhere in the first, so that it needs twice as many: 4 where it may join two. More
  // than there are rows nobody reads. Allocated as doubles, which aligns either type.
  Work(Type type, Direction direction, bool relu, const BatchNorm& job)
      : kernel(active_isa().batchnorm[type][direction][relu]), b(job), group_channels(0) {
    const Index size_of = bytes_of(type), arrays = direction == backward ? 2 : 1;  // arrays that are read
    small = elements() <= kOneThreadElements;
    b.repeats = b.channels < kJoinedColumns ? kLanes : b.channels < kSumColumns ? 4 : 2;
    b.repeats = b.channels_last ? std::max<Index>(2, std::min(b.repeats, rows())) : 1;
    coefficients.resize(ceil_div(kCoefficients * b.repeats * b.channels * size_of, 8));
    b.coefficients = coefficients.data();
    b.stream = elements() * size_of > kStreamBytes && b.out != b.dy && b.out != b.x;
    b.fetch = !b.channels_last && arrays * elements() * size_of > kFetchedBytes;
  }

  Index rows() const { return b.samples * b.positions; }
  Index elements() const { return rows() * b.channels; }
  // Sets of channels whose block sums are computed at a time.
  Index slabs() const { return b.channels_last ? ceil_div(b.channels, kSumColumns) : b.channels; }

  // Planes only: everything for a range of channels, group_channels at a time, so that x is read from memory once and
  // from the cache afterwards.
  void run_channels(Index begin, Index end) const {
    for (Index next; begin < end; begin = next) {
      next = std::min(end, begin + group_channels);
      kernel.prepare(b, begin, next);
      kernel.add_blocks(b, begin, next, 0, b.blocks);
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

  // The phases, each over all of x.

  void prepare() const {
    run_parts(b.channels, elements(), [&](Index begin, Index end) { kernel.prepare(b, begin, end); });
  }

  void add_blocks() const {
    Index unit = std::min(rows(), kSumBlock) * (b.channels_last ? std::min(b.channels, kSumColumns) : 1);
    run_parts(b.blocks * slabs(), small ? elements() : kItemElements / unit, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) add_unit(i);
    });
  }

  void finish() const {
    run_parts(b.channels, small ? elements() : std::max(kChannelsPerItem, kItemElements / b.blocks),
              [&](Index begin, Index end) { kernel.finish(b, begin, end); });
  }

  // From the end: what the sums read last is still in the caches.
  void apply() const {
    const Index everything = elements(), size = b.channels_last ? b.channels : 1;
    run_parts(everything / size, small ? everything : kItemElements / size,
              [&](Index begin, Index end) { kernel.apply(b, everything - end * size, everything - begin * size); });
  }
};

}  // namespace

void run_batchnorm(Type type, Direction direction, bool relu, BatchNorm job) {
  job.values = job.samples * job.positions;
  job.blocks = ceil_div(job.values, kSumBlock);
  Work work(type, direction, relu, job);
  BatchNorm& b = work.b;
  if (work.elements() == 0) return;
  std::vector<double> sums(direction == inference ? 0 : 2 * b.blocks * b.channels);
  b.sums = sums.data();

  const Index size_of = bytes_of(type), channel_bytes = b.values * size_of * (direction == backward ? 2 : 1);
  // Planes, each channel within the cache, and enough channels for some threads: x is read from memory once.
  if (!b.channels_last && direction != inference && !work.small && b.channels >= 8 && channel_bytes <= kChannelBytes) {
    Index run = direction == forward ? kForwardRun : kBackwardRun;
    work.group_channels = std::min(ceil_div(run, b.positions * size_of), kChannelBytes / channel_bytes);
    const Index threads = get_num_threads(), items = std::max(kPlaneItems, 2 * threads);
    work.group_channels = std::min(work.group_channels, std::max<Index>(1, b.channels / std::max<Index>(8, threads)));
    Index groups = ceil_div(b.channels, work.group_channels);
    return run_parts(b.channels, work.group_channels * ceil_div(groups, items),
                     [&](Index begin, Index end) { work.run_channels(begin, end); });
  }
  // Otherwise one phase after the other over all of x, which is read twice.
  work.prepare();
  if (direction != inference) {
    work.add_blocks();
    work.finish();
  }
  work.apply();
}

void add_batchnorm_blocks(Type type, Direction direction, bool relu, const BatchNorm& job) {
  Work work(type, direction, relu, job);
  if (job.blocks * job.channels == 0) return;
  work.prepare();
  work.add_blocks();
}

void apply_batchnorm_sums(Type type, Direction direction, bool relu, BatchNorm job) {
  job.blocks = 1;
  Work work(type, direction, relu, job);
  if (job.channels == 0) return;
  work.prepare();
  work.finish();
  if (work.elements() > 0) work.apply();
}

void update_running(Type type, const double* mean64, const double* var64, Index channels, Index values, double momentum,
                    Index batches, void* mean, void* var) {
  FpMode mode;
  active_isa().update_running[type](mean64, var64, channels, values, momentum, batches, mean, var);
}

}  // namespace samestep
