// Cuts the rows of a softmax into work items. No arithmetic: that is in contract/softmax.h.
#include <vector>

#include "isa/dispatch.h"
#include "run/fp_mode.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

constexpr Index kItemElements = 16384;  // of a work item: some 20 microseconds

}  // namespace

double softmax_cross_entropy(Type type, Softmax job) {
  const Isa& isa = active_isa();
  std::vector<double> losses(job.rows);  // as doubles, which aligns either type
  job.losses = losses.data();
  run_parts(
      job.rows, kItemElements / job.columns, [&](Index begin, Index end) { isa.softmax_rows[type](job, begin, end); },
      job.rows * job.columns > kItemElements);
  double sum;
  canonical_sum(type, values, losses.data(), 1, job.rows, 1, &sum);
  FpMode mode;
  return isa.softmax_mean(sum, job.rows);
}

}  // namespace samestep
