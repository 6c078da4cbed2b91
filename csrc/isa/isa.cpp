// The loops, compiled once per instruction set with the flags of CMakeLists.txt; exports one constant table.
// No library header and no linkage but the table's: see rules.h.
#include "contract/batchnorm.h"
#include "contract/fetch.h"
#include "contract/mse.h"
#include "contract/options.h"
#include "contract/rules.h"
#include "contract/storage.h"
#include "contract/sums.h"
#include "contract/vector.h"
#include "isa/kernels.h"
#include "isa/roofs.h"

namespace samestep {
namespace {

template <class R, class... Hyper>
constexpr int arity(R (*)(Index, Hyper...)) {
  return sizeof...(Hyper);
}
template <class R, class T, class... States>
constexpr int arity(void (R::*)(T&, T, States&...) const) {
  return sizeof...(States);
}
template <class R, class T>
constexpr int n_states = arity<R, T>(&R::template operator()<T>);

// Hands the hyper-parameters to R::at one by one: how many there are is read off its signature.
template <class R, class... Hyper>
void form(Index t, const double* hyper, Coefficients* out, Hyper... head) {
  if constexpr (sizeof...(Hyper) == arity(&R::at)) {
    static_assert(sizeof(R) <= sizeof(Coefficients::bytes), "a rule with more coefficients needs a larger buffer");
    *reinterpret_cast<R*>(out->bytes) = R::at(t, head...);
  } else {
    form<R>(t, hyper + 1, out, head..., *hyper);
  }
}

template <class R>
void coefficients(Index t, const double* hyper, Coefficients* out) {
  form<R>(t, hyper, out);
}

// An element as it lies in memory, and x as the rule sees it; what the rule makes of x goes back with keep(). A rule
// must not work on memory itself: what it has written and reads again waits for the store, longest across cache lines.
template <class T>
struct AsIs {
  using Kept = T;
  T& kept;
  T x;
  explicit AsIs(T& kept) : kept(kept), x(kept) {}
  void keep() const { kept = x; }
  static T read(T kept) { return kept; }
};

struct InBFloat16 {
  using Kept = Half;
  Half& kept;
  float x;
  explicit InBFloat16(Half& kept) : kept(kept), x(read(kept)) {}
  void keep() const { kept = BFloat16::narrow(x); }
  static float read(Half kept) { return BFloat16::widen(kept); }
};

template <class R, class T, class W, class... States>
inline void step(const R& rule, W w, T g, States... states) {
  rule(w.x, g, states.x...);
  (states.keep(), ...);
  w.keep();
}

// Elements in a row: whole vectors of any instruction set, whole cache lines of any type.
constexpr Index kRun = 64;
// From memory each run asks for the one this far ahead; never past the end, where it may be another thread's.
constexpr Index kAhead = 256;

// The next loop's elements are independent: gcc, unlike clang, loses sight of __restrict in the structs above.
#ifdef __clang__
#define INDEPENDENT
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

// W: how w and g are kept, S: how states are.
template <class W, class S, class R, class... States>
void loop(const R rule, Index n, typename W::Kept* __restrict w, const typename W::Kept* __restrict g,
          States* __restrict... states) {
  const Index fetched = n < kFar ? 0 : n - kAhead - kRun;
  Index i = 0;
  for (; i + kRun <= n; i += kRun) {
    if (i < fetched) {
      fetch(w + i + kAhead, kRun);
      fetch(g + i + kAhead, kRun);
      (fetch(states + i + kAhead, kRun), ...);
    }
    INDEPENDENT
    for (Index j = i; j < i + kRun; ++j) step(rule, W(w[j]), W::read(g[j]), S(states[j])...);
  }
  INDEPENDENT
  for (; i < n; ++i) step(rule, W(w[i]), W::read(g[i]), S(states[i])...);
}

// A rule under decoupled weight decay, from a gradient that is scaled and clipped on the way: beside the rest that
// costs nothing, and AdamW is mostly run with its gradients clipped.
template <class R, class T>
struct DecayedRule {
  R rule;
  PreparedGradient<T> prepared;
  T d;
  template <class... States>
  void operator()(T& w, T g, States&... states) const {
    Decayed<T> decayed{w, d};
    rule(decayed, prepared(w, g, false), states...);
    w = decayed.w;
  }
};

// Hands the state arrays to the loop one by one, as form() does the hyper-parameters.
template <int n, class W, class S, class R, class... States>
void unpack(const R& rule, Index begin, Index end, typename W::Kept* w, const typename W::Kept* g, void* const* rest,
            States*... head) {
  if constexpr (sizeof...(States) == n) {
    loop<W, S>(rule, end - begin, w + begin, g + begin, (head + begin)...);
  } else {
    unpack<n, W, S>(rule, begin, end, w, g, rest + 1, head..., static_cast<typename S::Kept*>(*rest));
  }
}

template <class R, class T, class W, class S>
void update(const Coefficients& c, void* w, const void* g, void* const* states, Index begin, Index end) {
  using Kept = typename W::Kept;
  const R& rule = *reinterpret_cast<const R*>(c.bytes);
  unpack<n_states<R, T>, W, S>(rule, begin, end, static_cast<Kept*>(w), static_cast<const Kept*>(g), states);
}

template <class R, class T, class W, class S>
void update_decayed(const Coefficients& c, const Preparation& p, void* w, const void* g, void* const* states,
                    Index begin, Index end) {
  using Kept = typename W::Kept;
  const DecayedRule<R, T> rule{*reinterpret_cast<const R*>(c.bytes), PreparedGradient<T>(p), T(c.decay)};
  unpack<n_states<R, T>, W, S>(rule, begin, end, static_cast<Kept*>(w), static_cast<const Kept*>(g), states);
}

template <class R, class T>
constexpr Update update_of() {
  using W = AsIs<T>;
  Update found{coefficients<R>, {update<R, T, W, W>, update_decayed<R, T, W, W>}, {}};
  if constexpr (sizeof(T) == 4) {
    using H = InBFloat16;
    found.apply_bfloat16[0] = {update<R, T, H, W>, update_decayed<R, T, H, W>};
    found.apply_bfloat16[1] = {update<R, T, H, H>, update_decayed<R, T, H, H>};
  }
  return found;
}

// clang-format off
#define TYPES(name, family, form, variant, hyper, states, ...) template <class T> using rule_##name = __VA_ARGS__;
FOR_EACH_RULE(TYPES)
FOR_EACH_ROOF(TYPES)

#define ROW(name, family, form, variant, hyper, states, ...)                                 \
  {#name, #family, #form, #variant, hyper, states,                                           \
   arity(&rule_##name<float>::at), n_states<rule_##name<float>, float>,                      \
   {update_of<rule_##name<float>, float>(), update_of<rule_##name<double>, double>()}},
constexpr Rule kRules[] = {FOR_EACH_RULE(ROW) FOR_EACH_ROOF(ROW)};
#define ONE(...) +1
constexpr int kRoofs = FOR_EACH_ROOF(ONE);
// clang-format on

template <class T>
constexpr OptionKernels option_kernels = {prepare_gradient<T, false>, prepare_gradient<T, true>, average<T>,
                                          flush_subnormals<T>, all_finite<T>};

template <class T, class Terms>
constexpr Sum sum_of() {
  return {run_blocks<T, Terms>, column_blocks<T, Terms>};
}

template <class T, template <class, bool> class Direction, bool relu>
constexpr BatchNormKernel kernel_of() {
  using D = Direction<T, relu>;
  return {prepare<D>, add_blocks<D, T>, finish<D>, apply<D, T>};
}

template <class T, bool relu>
constexpr BatchNormKernel inference_of() {
  using D = Inference<T, relu>;
  return {prepare<D>, nullptr, nullptr, apply<D, T>};
}

#define DIRECTIONS(T)                                                        \
  {                                                                          \
    {kernel_of<T, Forward, false>(), kernel_of<T, Forward, true>()},         \
        {kernel_of<T, Backward, false>(), kernel_of<T, Backward, true>()}, { \
      inference_of<T, false>(), inference_of<T, true>()                      \
    }                                                                        \
  }

template <class T>
constexpr MseKernels mse_kernels = {mse_widen<T>, mse_block<T>, mse_gradient<T>, mse_loss, mse_row<T>};

double root64(double x) { return root(x); }

}  // namespace

// SAMESTEP_ISA: baseline, avx2 or avx512, from the build.
#define TABLE_OF(isa) isa_##isa
#define TABLE(isa) TABLE_OF(isa)
#define QUOTED_OF(isa) #isa
#define QUOTED(isa) QUOTED_OF(isa)
extern const Isa TABLE(SAMESTEP_ISA);
const Isa TABLE(SAMESTEP_ISA) = {
    QUOTED(SAMESTEP_ISA),
    kVectorBytes,
    kRules,
    sizeof(kRules) / sizeof(kRules[0]) - kRoofs,
    kRoofs,
    {option_kernels<float>, option_kernels<double>},
    {{nullptr, nullptr}, {widen<BFloat16>, narrow<BFloat16>}, {widen<Float16>, narrow<Float16>}},
    narrow_at_random,
    join,
    split,
    decoupled_decay,
    clip_scale,
    {{sum_of<float, Values<float>>(), sum_of<float, Squares<float>>()},
     {sum_of<double, Values<double>>(), sum_of<double, Squares<double>>()}},
    pair,
    root64,
    {DIRECTIONS(float), DIRECTIONS(double)},
    {update_running<float>, update_running<double>},
    {mse_kernels<float>, mse_kernels<double>},
};

}  // namespace samestep
