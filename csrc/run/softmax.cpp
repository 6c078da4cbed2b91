// Cuts the rows of a softmax into work items. No arithmetic: that is in contract/softmax.h.
#include <algorithm>
#include <vector>

#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

constexpr Index kItem = 16384;  // elements of a work item: some 20 microseconds

}  // namespace

double softmax_cross_entropy(Type type, Softmax job) {
  struct Work {
    const Isa& isa;
    Type type;
    Softmax job;
    Index per_item;
    double mean;
  } work{active_isa(), type, job, std::max<Index>(1, kItem / job.columns), 0.0};
  std::vector<double> losses(job.rows);  // as doubles, which aligns either type
  work.job.losses = losses.data();
  run_items(
      ceil_div(job.rows, work.per_item),
      [](void* context, Index item) {
        const Work& w = *static_cast<const Work*>(context);
        const Index begin = item * w.per_item;
        w.isa.softmax_rows[w.type](w.job, begin, std::min(w.job.rows, begin + w.per_item));
      },
      &work, job.rows * job.columns > kItem);
  double sum;
  canonical_sum(type, values, losses.data(), 1, job.rows, 1, &sum);
  work.mean = sum;
  // An item of its own: on this thread, in the contract's floating-point mode.
  run_items(
      1,
      [](void* context, Index) {
        Work& w = *static_cast<Work*>(context);
        w.mean = w.isa.softmax_mean(w.mean, w.job.rows);
      },
      &work);
  return work.mean;
}

}  // namespace samestep
