// The step of an optimizer as XLA calls it, from a thread of its own and without the interpreter.
#include <xla/ffi/api/ffi.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "isa/dispatch.h"
#include "jax/calls.h"
#include "run/plan.h"

namespace samestep {
namespace {

namespace ffi = xla::ffi;

using Operands = ffi::RemainingArgs;
using Results = ffi::RemainingRets;

// What the program says of a step once and for all.
struct Attributes {
  std::string_view rule;

  // The rule's hyper-parameters, then kMore; which of them operands give, their names, and three bounds of each: at
  // least, below, at most.
  ffi::Span<const double> numbers;
  ffi::Span<const std::int64_t> given;
  std::string_view names;
  ffi::Span<const double> bounds;

  bool decoupled_weight_decay, maximize, flush_subnormals, skips_nonfinite;
  bool has_ema, has_master, stores_states;
  bool rounds_at_random;
  std::int64_t seed;  // its bits: XLA takes no number of 64 bits without a sign
};
enum More { weight_decay, clip_norm, clip_value, ema, kMore };

ffi::Error invalid(const std::string& message) { return ffi::Error::InvalidArgument(message); }

ffi::AnyBuffer operand(const Operands& operands, size_t i) { return operands.get<ffi::AnyBuffer>(i).value(); }

// A plan, and the step counts that it refers to.
struct BoundPlan {
  std::vector<Index> steps;
  std::optional<Plan> plan;
};

// The plans that no step is using, so that one is made and tuned once for all steps of arrays of these sizes. A step
// takes one out: devices that step at once have a plan each.
class IdlePlans {
 public:
  // One of a rule and tensors like these.
  std::unique_ptr<BoundPlan> take(int rule, const std::vector<Tensor>& like) {
    {
      const std::lock_guard<std::mutex> alone(mutex_);
      for (auto it = plans_.rbegin(); it != plans_.rend(); ++it) {
        if (!fits((*it)->plan.value(), rule, like)) continue;
        std::unique_ptr<BoundPlan> found = std::move(*it);
        plans_.erase(std::next(it).base());
        found->plan->tensors() = like;
        return found;
      }
    }
    auto made = std::make_unique<BoundPlan>();
    made->steps.resize(like.size() + 1);
    made->plan.emplace(rule, like, made->steps.data());
    return made;
  }

  void give_back(std::unique_ptr<BoundPlan> plan) {
    const std::lock_guard<std::mutex> alone(mutex_);
    if (plans_.size() == kMost) plans_.erase(plans_.begin());
    plans_.push_back(std::move(plan));
  }

 private:
  static constexpr size_t kMost = 64;

  static bool fits(Plan& plan, int rule, const std::vector<Tensor>& like) {
    const auto is_like = [](const Tensor& a, const Tensor& b) {
      return a.size == b.size && a.type == b.type && a.storage == b.storage;
    };
    const std::vector<Tensor>& own = plan.tensors();
    return plan.rule() == rule && std::equal(own.begin(), own.end(), like.begin(), like.end(), is_like);
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<BoundPlan>> plans_;  // that came last is last
};

// Never destroyed: XLA's threads may still run when the process ends.
IdlePlans& idle_plans() {
  static auto* const plans = new IdlePlans;
  return *plans;
}

int find_rule(std::string_view name) {
  const Isa& isa = active_isa();
  for (int i = 0; i < isa.n_rules; ++i) {
    if (name == isa.rules[i].name) return i;
  }
  return -1;
}

// The first of words that blanks separate, which is taken off.
std::string take_word(std::string_view* words) {
  const size_t end = std::min(words->find(' '), words->size());
  const std::string word(words->substr(0, end));
  words->remove_prefix(std::min(end + 1, words->size()));
  return word;
}

// The numbers of one step: those of the program, in which those that it has computed take their places.
ffi::Error read_numbers(const Attributes& attributes, const Operands& operands, std::vector<double>* numbers) {
  numbers->assign(attributes.numbers.begin(), attributes.numbers.end());
  std::string_view names = attributes.names;
  for (size_t i = 0; i < attributes.given.size(); ++i) {
    const std::string name = take_word(&names);
    const ffi::AnyBuffer buffer = operand(operands, 1 + i);
    const bool is_double = buffer.element_type() == ffi::F64;
    if ((!is_double && buffer.element_type() != ffi::F32) || buffer.element_count() != 1) {
      return invalid(name + ": expected one number in float32 or float64");
    }
    const double value = is_double ? *buffer.typed_data<double>() : *buffer.typed_data<float>();
    const double* bounds = attributes.bounds.begin() + 3 * i;
    if (!(bounds[0] <= value && value < bounds[1] && value <= bounds[2])) {
      std::ostringstream message;
      message << name << ": got " << value << ", expected a number of at least " << bounds[0] << " and below "
              << bounds[1];
      return invalid(message.str());
    }
    const std::int64_t place = attributes.given[i];
    if (place < 0 || place >= static_cast<std::int64_t>(numbers->size())) return invalid(name + ": has no place");
    (*numbers)[place] = value;
  }
  return ffi::Error::Success();
}

// The tensors of a step. The operands from `first` on are in turn all parameters, all of each state, all averages and
// masters as far as there are any, and all gradients; results hold all but the last in the memory of the operands.
ffi::Error read_tensors(const Attributes& attributes, const Operands& operands, size_t first, const Results& results,
                        size_t n_states, std::vector<Tensor>* tensors) {
  const size_t kinds = 2 + n_states + attributes.has_ema + attributes.has_master;
  const size_t n = (operands.size() - std::min(first, operands.size())) / kinds;
  if (operands.size() != first + kinds * n || results.size() != 1 + (kinds - 1) * n) {
    return invalid("samestep_step: got a wrong number of operands or results");
  }
  tensors->resize(n);
  for (size_t i = 0; i < n; ++i) {
    const ffi::AnyBuffer w = operand(operands, first + i);
    const ffi::DataType dtype = w.element_type();
    const bool is_half = dtype == ffi::BF16 || dtype == ffi::F16;
    if (!is_half && dtype != ffi::F32 && dtype != ffi::F64) {
      return invalid("params: expected float32, float64, float16 or bfloat16");
    }
    Tensor& tensor = (*tensors)[i];
    tensor = {dtype == ffi::F64 ? float64 : float32, static_cast<Index>(w.element_count()), nullptr, {}, nullptr};
    tensor.storage = dtype == ffi::BF16 ? bfloat16 : dtype == ffi::F16 ? float16 : as_is;
    tensor.stores_states = is_half && attributes.stores_states;

    bool fits = true;
    size_t kind = 0;
    const auto next = [&](ffi::DataType expected) {
      const ffi::AnyBuffer buffer = operand(operands, first + kind * n + i);
      void* const data = buffer.untyped_data();
      fits = fits && buffer.element_type() == expected && static_cast<Index>(buffer.element_count()) == tensor.size;
      if (kind + 1 < kinds && tensor.size > 0) {
        fits = fits && results.get<ffi::AnyBuffer>(1 + kind * n + i).value()->untyped_data() == data;
      }
      ++kind;
      return data;
    };
    const ffi::DataType working = is_half ? ffi::F32 : dtype;
    tensor.w = next(dtype);
    for (size_t s = 0; s < n_states; ++s) tensor.states[s] = next(attributes.stores_states ? dtype : working);
    if (attributes.has_ema) tensor.ema = next(working);
    if (attributes.has_master) tensor.master = next(working);
    tensor.g = next(dtype);
    if (!fits) return invalid("samestep_step: expected arrays like the parameters, and results in their memory");
  }
  return ffi::Error::Success();
}

// Operand 0 and result 0, in one place: how many steps have been made.
template <class Count>
ffi::Error step(const Attributes& attributes, const Operands& operands, const Results& results, Count* count) {
  if (results.get<ffi::AnyBuffer>(0).value()->untyped_data() != count) {
    return invalid("count: expected its result in its memory");
  }
  if (*count < 0) return invalid("count: got " + std::to_string(*count) + ", expected 0 or more");
  const int row = find_rule(attributes.rule);
  if (row < 0) return invalid("rule: got " + std::string(attributes.rule) + ", which there is not");
  const Rule& rule = active_isa().rules[row];
  if (static_cast<int>(attributes.numbers.size()) != rule.n_hyper + kMore ||
      attributes.bounds.size() != 3 * attributes.given.size()) {
    return invalid("samestep_step: got a wrong number of hyper-parameters");
  }
  std::vector<double> numbers;
  if (ffi::Error error = read_numbers(attributes, operands, &numbers); error.failure()) return error;
  std::vector<Tensor> tensors;
  const size_t first = 1 + attributes.given.size();
  if (ffi::Error error = read_tensors(attributes, operands, first, results, rule.n_states, &tensors); error.failure()) {
    return error;
  }

  std::unique_ptr<BoundPlan> bound = idle_plans().take(row, tensors);
  const double* more = numbers.data() + rule.n_hyper;
  Options& options = bound->plan->options();
  options = {};
  options.decoupled_weight_decay = attributes.decoupled_weight_decay;
  options.maximize = attributes.maximize;
  options.flush_subnormals = attributes.flush_subnormals;
  options.nonfinite = attributes.skips_nonfinite ? Nonfinite::refuse : Nonfinite::propagate;
  options.clip_norm = more[clip_norm];
  options.clip_value = more[clip_value];
  if (attributes.has_ema) options.ema = more[ema];
  if (attributes.rounds_at_random) options.stochastic_rounding = static_cast<std::uint64_t>(attributes.seed);
  if (more[weight_decay] != 0.0) options.weight_decay = {more[weight_decay]};
  std::fill(bound->steps.begin(), bound->steps.end(), *count);
  const bool is_stepped = bound->plan->step(numbers.data()) == Outcome::stepped;
  if (is_stepped && *count < std::numeric_limits<Count>::max()) ++*count;  // as optax counts: the last number stays
  idle_plans().give_back(std::move(bound));
  return ffi::Error::Success();
}

ffi::Error execute(Operands operands, Results results, std::string_view rule, ffi::Span<const double> numbers,
                   ffi::Span<const std::int64_t> given, std::string_view names, ffi::Span<const double> bounds,
                   bool decoupled_weight_decay, bool maximize, bool flush_subnormals, bool skips_nonfinite,
                   bool has_ema, bool has_master, bool stores_states, bool rounds_at_random, std::int64_t seed) {
  const Attributes attributes{rule,
                              numbers,
                              given,
                              names,
                              bounds,
                              decoupled_weight_decay,
                              maximize,
                              flush_subnormals,
                              skips_nonfinite,
                              has_ema,
                              has_master,
                              stores_states,
                              rounds_at_random,
                              seed};
  if (operands.size() <= given.size() || results.size() == 0) return invalid("samestep_step: got no count");
  const ffi::AnyBuffer count = operand(operands, 0);
  try {
    if (count.element_type() == ffi::S32) return step(attributes, operands, results, count.typed_data<std::int32_t>());
    if (count.element_type() == ffi::S64) return step(attributes, operands, results, count.typed_data<std::int64_t>());
  } catch (const std::exception& error) {  // memory ran out
    return ffi::Error::Internal(std::string("samestep_step: ") + error.what());
  }
  return invalid("count: expected int32 or int64");
}

XLA_FFI_DEFINE_HANDLER(kStep, execute,
                       ffi::Ffi::Bind()
                           .RemainingArgs()
                           .RemainingRets()
                           .Attr<std::string_view>("rule")
                           .Attr<ffi::Span<const double>>("numbers")
                           .Attr<ffi::Span<const std::int64_t>>("given")
                           .Attr<std::string_view>("names")
                           .Attr<ffi::Span<const double>>("bounds")
                           .Attr<bool>("decoupled_weight_decay")
                           .Attr<bool>("maximize")
                           .Attr<bool>("flush_subnormals")
                           .Attr<bool>("skips_nonfinite")
                           .Attr<bool>("has_ema")
                           .Attr<bool>("has_master")
                           .Attr<bool>("stores_states")
                           .Attr<bool>("rounds_at_random")
                           .Attr<std::int64_t>("seed"));

}  // namespace

void* xla_step() { return reinterpret_cast<void*>(kStep); }

}  // namespace samestep
