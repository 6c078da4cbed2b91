// The pass of a step over a run of elements: the rule, the options around it, and the 16-bit forms of what is stored.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "isa/kernels.h"

namespace samestep {

// A parameter and all that a step writes with it.
struct Tensor {
  Type type;
  Index size;
  void* w;
  void* states[kMaxStates];
  const void* g;                     // set before each step; nullptr: the step skips this tensor and does not count it
  int group = 0;                     // whose hyper-parameters
  void* ema = nullptr;               // the parameter's running average
  const void* g_in_order = nullptr;  // g in C order, for its norm; set where that differs

  // Where type is float32, w and g may be kept in 16 bits, and then the states as well.
  Storage storage = as_is;
  bool stores_states = false;
  void* master = nullptr;  // the parameter in float32, of which w is the rounded one
  void* low = nullptr;     // or the lower halves of float32 parameters, w being the upper ones
  void* copy = nullptr;    // takes the updated parameter in 16 bits
  Storage copy_storage = as_is;

  Index first = 0;  // of the whole array's elements, the first that is here; a multiple of kSumBlock
};

// An array of a tensor: what a step reads, or reads and writes.
struct Kind {
  const void* array;
  Contents contents;
  Index bytes;  // of an element
};
constexpr int kMostKinds = kMaxStates + 6;  // beside the states: g, w, ema, master, low, copy

// The gradient, then all that a step writes, in the order of samestep.backends.face.Tensor.arrays(); how many there
// are.
int kinds_of(const Tensor& t, int n_states, Kind* kinds);

// Where a step leaves the sums that fingerprints are made of (contract/fingerprint.h): a row a tensor, in which the
// gradient comes first and then, as far as the row goes, all that is written.
struct BlockSums {
  unsigned long long* rows = nullptr;  // (tensors, kinds); nullptr: none are made
  int kinds = 0;
};

// What happens where a gradient is infinite or NaN.
enum class Nonfinite { propagate, refuse };

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// What a step does besides the rule. A row: the type, the name of the keyword argument in Python, the value while off.
#define FOR_EACH_OPTION(ROW)                                                          \
  ROW(bool, decoupled_weight_decay, false)                                            \
  ROW(bool, maximize, false)                                                          \
  ROW(bool, zero_grads, false)                                                        \
  ROW(bool, flush_subnormals, false)                                                  \
  ROW(Nonfinite, nonfinite, Nonfinite::propagate)                                     \
  ROW(double, clip_norm, kNoLimit)                                                    \
  ROW(double, clip_value, kNoLimit)                                                   \
  ROW(double, ema, 0.0) /* decay of the running average, for tensors that have one */ \
  ROW(std::optional<std::uint64_t>, stochastic_rounding, std::nullopt) /* of parameters kept in bfloat16 */

struct Options {
#define OPTION_FIELD(type, name, absent) type name = absent;
  FOR_EACH_OPTION(OPTION_FIELD)
#undef OPTION_FIELD

  std::vector<double> weight_decay;  // of each group; empty: none
  double decay_of(int group) const { return weight_decay.empty() ? 0.0 : weight_decay[group]; }
};

inline char* at(void* array, Index size_of, Index i) { return static_cast<char*>(array) + i * size_of; }
inline const char* at(const void* array, Index size_of, Index i) {
  return static_cast<const char*>(array) + i * size_of;
}

// Bytes of an element of a parameter or gradient; of its arithmetic, bytes_of(type).
inline Index stored_bytes(const Tensor& t) { return t.storage == as_is ? bytes_of(t.type) : 2; }

// Steps runs of elements; several threads may call it for different runs. It refers to the tensors' step counts.
class Pass {
 public:
  Pass(const std::vector<Tensor>& tensors, const Index* steps);

  Options options;

  // To be called before the first element of a step, whose gradients are multiplied by `scale`.
  void start_step(const Isa& isa, int rule, double scale);

  // Whether no element of the gradient is infinite or NaN, before a step is started.
  bool all_finite(const Tensor& tensor, Index begin, Index end) const;

  // For the next step; its runs of elements then begin at multiples of kSumBlock.
  BlockSums block_sums;

  // Steps elements begin..end-1 of the tensor, which is number i of the list.
  void step_elements(const Tensor& tensor, Index i, const Coefficients& coefficients, Index begin, Index end) const {
    if (block_sums.rows != nullptr) {
      record_elements(tensor, i, coefficients, begin, end);
    } else {
      step_unrecorded(tensor, i, coefficients, begin, end);
    }
  }

  // The same without sums.
  void step_unrecorded(const Tensor& tensor, Index i, const Coefficients& coefficients, Index begin, Index end) const {
    if (needs_rule_only(tensor)) {
      run_rule(tensor, coefficients, begin, end, nullptr);
    } else {
      run_with_options(tensor, i, coefficients, begin, end);
    }
  }

 private:
  // Whether the rule's own loop suffices. It reads and writes values as they are, or in bfloat16.
  bool needs_rule_only(const Tensor& t) const {
    if (!has_options_) return true;
    const bool is_whole = t.master == nullptr && t.low == nullptr && t.copy == nullptr && t.ema == nullptr;
    const bool is_kept = t.storage == as_is || (t.storage == bfloat16 && !options.stochastic_rounding);
    const bool is_prepared = decays_apart(t) || (options.decay_of(t.group) == 0.0 && !prepares_);
    return is_whole && is_kept && is_prepared && !options.flush_subnormals;
  }

  bool decays_apart(const Tensor& t) const {
    return options.decay_of(t.group) != 0.0 && options.decoupled_weight_decay;
  }

  void run_rule(const Tensor& t, const Coefficients& coefficients, Index begin, Index end, RunHashes* hashes) const {
    const Update& update = rule_->update[t.type];
    const Apply& apply = t.storage == bfloat16 ? update.apply_bfloat16[t.stores_states] : update.apply;
    if (decays_apart(t)) {
      apply_decayed(apply, t, coefficients, begin, end, hashes);
    } else {
      apply.plain(coefficients, t.w, t.g, t.states, begin, end, hashes);
    }
    if (options.zero_grads) zero(t, begin, end);
  }

  static void zero(const Tensor& t, Index begin, Index end) {
    std::memset(const_cast<char*>(at(t.g, stored_bytes(t), begin)), 0, (end - begin) * stored_bytes(t));
  }

  Preparation preparation_of(const Tensor& tensor) const;
  void apply_decayed(const Apply& apply, const Tensor& t, const Coefficients& coefficients, Index begin, Index end,
                     RunHashes* hashes) const;
  void fetch(const Tensor& tensor, Index begin, Index end) const;
  void run_with_options(const Tensor& tensor, Index i, const Coefficients& coefficients, Index begin, Index end) const;
  void store_parameter(const Tensor& tensor, Index i, Index begin, Index n, const float* w) const;
  void record_elements(const Tensor& tensor, Index i, const Coefficients& coefficients, Index begin, Index end) const;

  const Index* steps_;
  bool stores_ = false;  // whether anything is stored in another type than it is computed in

  // Set by start_step().
  const Isa* isa_ = nullptr;
  const Rule* rule_ = nullptr;
  double scale_ = 1.0;        // of the gradients
  bool has_options_ = false;  // whether any option changes what is written
  bool prepares_ = false;     // whether any changes gradients, apart from weight decay
};

}  // namespace samestep
