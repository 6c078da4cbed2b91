// What a step needs to know of each tensor before its elements are stepped: whether it steps, its count of steps, the
// rule's coefficients, the scale. Formed on the device, which alone knows the norm and whether gradients are finite.
// The formulas are those of rules.h and options.h.
#pragma once
#include "contract/options.h"
#include "contract/rules.h"
#include "contract/types.h"
#include "gpu/tensors.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

// The numbers 0..n-1 as template arguments: std::make_integer_sequence, for whose header NVRTC would need a path.
template <int... k>
struct Numbers {};
template <int n, int... k>
struct UpTo : UpTo<n - 1, n - 1, k...> {};
template <int... k>
struct UpTo<0, k...> {
  using type = Numbers<k...>;
};

constexpr int kHyper = 256;  // numbers, for so many groups as these suffice for
struct UpdateArguments {
  const Row* rows;  // (tensors)
  const Given* given;
  Index tensors;
  Index* counts;    // (tensors + 2): the steps of each, those of all, the stamp of the last that had a bad gradient
  Update* updates;  // (tensors)
  Index stamp;      // this step is left out if its gradients have left this stamp; 0: it never is
  const float* found_inf;  // likewise, if another than 0 lies there; nullptr: nothing does
  const double* norm;      // of the gradients; nullptr: they are not clipped by it
  double scale, clip_norm;
  Index maximize, first_group, groups;
  double hyper[kHyper];  // (groups, ...), each group's hyper-parameters and its weight decay
};

// How many hyper-parameters R::at takes, and R::at(t, hyper[0], hyper[1], ...).
template <class R, class... Doubles>
constexpr int count_of(R (*)(Index, Doubles...)) {
  return sizeof...(Doubles);
}
template <class R, class... Doubles, int... k>
inline R formed(R (*at)(Index, Doubles...), Index t, const double* hyper, Numbers<k...>) {
  return at(t, hyper[k]...);
}

// A thread forms the update of one tensor of these groups.
template <class R32, class R64>
void form_updates(const UpdateArguments& a) {
  constexpr int kCount = count_of(R32::at);
  const Index i = thread_number();
  if (i >= a.tensors) return;
  const Row& row = a.rows[i];
  const Index group = row.group - a.first_group;
  if (group < 0 || group >= a.groups) return;
  Update& update = a.updates[i];
  const bool is_left_out =
      (a.stamp != 0 && a.counts[a.tensors + 1] == a.stamp) || (a.found_inf != nullptr && *a.found_inf != 0.0f);
  if (i == 0 && !is_left_out) ++a.counts[a.tensors];
  if (is_left_out || a.given[i].place < 0) {
    update.t = 0;
    return;
  }
  const double* hyper = a.hyper + group * (kCount + 1);
  const Index t = ++a.counts[i];
  const double scale = a.norm == nullptr ? a.scale : clip_scale(a.scale, *a.norm, a.clip_norm);
  using Arguments = typename UpTo<kCount>::type;
  if (row.type == float32) {
    *reinterpret_cast<R32*>(update.coefficients.bytes) = formed(R32::at, t, hyper, Arguments{});
  } else {
    *reinterpret_cast<R64*>(update.coefficients.bytes) = formed(R64::at, t, hyper, Arguments{});
  }
  update.coefficients.decay = decoupled_decay(hyper[0], hyper[kCount]);
  update.scale = a.maximize ? -scale : scale;
  update.weight_decay = hyper[kCount];
  update.t = t;
}

}  // namespace
}  // namespace samestep
