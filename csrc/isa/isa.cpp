// The loops over rules, and the table of everything compiled for one instruction set. Built once for each with the
// flags of CMakeLists.txt. Exports the table alone and includes no library header: see rules.h.
#include "contract/fetch.h"
#include "contract/fingerprint.h"
#include "contract/leaves.h"
#include "contract/mse.h"
#include "contract/options.h"
#include "contract/rules.h"
#include "contract/storage.h"
#include "contract/sums.h"
#include "contract/vector.h"
#include "isa/batchnorm.h"
#include "isa/convolution.h"
#include "isa/functions.h"
#include "isa/kernels.h"
#include "isa/product.h"
#include "isa/roofs.h"
#include "isa/run_hashes.h"
#include "isa/softmax.h"

namespace samestep {
namespace {

// How many hyper-parameters R::at has after t, and how many states R::operator() has after w and g.
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

// out->bytes = R::at(t, hyper[0], hyper[1], ...): unpacks one argument per call, until there are as many as R::at has.
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

// One element in memory (`kept`) and its value for the rule (`x`); keep() stores x. A rule must not work on memory
// itself: a value that it wrote and reads again would wait for the store, longest where the element straddles two cache
// lines.
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

// Two neighbours kept in bfloat16, read and written as one word: vectors of halves need not be taken apart and put
// together again, which costs more than the rule.
struct PairInBFloat16 {
  Half* kept;
  float lower, upper;
  explicit PairInBFloat16(Half* kept)
      : kept(kept), lower(BFloat16::lower(read(kept))), upper(BFloat16::upper(read(kept))) {}
  void keep() const {
    const Word two = BFloat16::narrow_two(lower, upper);
    __builtin_memcpy(kept, &two, sizeof(two));
  }
  static Word read(const Half* kept) {
    Word two;
    __builtin_memcpy(&two, kept, sizeof(two));
    return two;
  }
};

// One element: w, states = rule(w, g, states).
template <class R, class T, class W, class... States>
inline void step(const R& rule, W w, T g, States... states) {
  rule(w.x, g, states.x...);
  (states.keep(), ...);
  w.keep();
}

// Both elements of a pair.
template <class R, class... States>
inline void step_pair(const R& rule, PairInBFloat16 w, Word g, States... states) {
  rule(w.lower, BFloat16::lower(g), states.lower...);
  rule(w.upper, BFloat16::upper(g), states.upper...);
  (states.keep(), ...);
  w.keep();
}

// Elements, half to 2 KiB, from a run to the one that it prefetches. Never past the end: what lies there may be another
// thread's to write.
constexpr Index kPrefetchDistance = 256;

// Elements from a run to the one that is hashed beside it: what has just been stored has not reached the cache yet, and
// reading it would wait.
constexpr Index kHashLag = kRun;

// The elements of the next loop are independent: gcc, unlike clang, loses sight of __restrict in the structs above.
#ifdef __clang__
#define INDEPENDENT
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

// w_i, states_i = rule(w_i, g_i, states_i),  i = 0..n-1; w, g and each state (n). W: how w and g are kept in memory, S:
// how states are. The tail runs the expression of the body, so that no bit depends on where an array is cut.
template <class W, class S, class R, class... States>
void loop(const R rule, Index n, RunHashes* hashes, typename W::Kept* __restrict w,
          const typename W::Kept* __restrict g, States* __restrict... states) {
  constexpr int kArrays = sizeof...(States) + 2;
  const Index prefetches_end = n < kShortestPrefetched ? 0 : n - kPrefetchDistance - kRun;
  if (hashes != nullptr) start_hashes(*hashes, g, w, states...);
  Index i = 0;
  // The body: kRun elements at a time. As long as there is a run kPrefetchDistance further on, it is fetched.
  for (; i + kRun <= n; i += kRun) {
    if (i < prefetches_end) {
      fetch(w + i + kPrefetchDistance, kRun);
      fetch(g + i + kPrefetchDistance, kRun);
      (fetch(states + i + kPrefetchDistance, kRun), ...);
    }
    if constexpr (sizeof(*w) == sizeof(Half) && sizeof(typename S::Kept) == sizeof(Half)) {
      using Pair = PairInBFloat16;
      INDEPENDENT
      for (Index j = i; j < i + kRun; j += 2) step_pair(rule, Pair(w + j), Pair::read(g + j), Pair(states + j)...);
    } else {
      INDEPENDENT
      for (Index j = i; j < i + kRun; ++j) step(rule, W(w[j]), W::read(g[j]), S(states[j])...);
    }
    if (hashes != nullptr && i >= kHashLag) {
      hash_run<typename W::Kept, typename S::Kept, kArrays>(*hashes, i - kHashLag);
    }
  }
  // The tail.
  const Index body = i;
  INDEPENDENT
  for (; i < n; ++i) step(rule, W(w[i]), W::read(g[i]), S(states[i])...);
  if (hashes != nullptr) {
    for (Index j = body > kHashLag ? body - kHashLag : 0; j < body; j += kRun) {
      hash_run<typename W::Kept, typename S::Kept, kArrays>(*hashes, j);
    }
    hash_end<typename W::Kept, typename S::Kept, kArrays>(*hashes, body, n - body);
  }
}

// rule(Decayed{w, d}, clip(scale*g), states): decoupled weight decay, d = T(lr*weight_decay), of a gradient that is
// scaled and clipped. In one loop: AdamW is mostly run with its gradients clipped, and what that adds to a loop that
// waits for memory costs nothing.
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

// loop(rule, w, g, rest[0], rest[1], ...): unpacks one state array per call, as form() unpacks hyper-parameters.
template <int n, class W, class S, class R, class... States>
void unpack(const R& rule, Index begin, Index end, RunHashes* hashes, typename W::Kept* w, const typename W::Kept* g,
            void* const* rest, States*... head) {
  if constexpr (sizeof...(States) == n) {
    loop<W, S>(rule, end - begin, hashes, w + begin, g + begin, (head + begin)...);
  } else {
    unpack<n, W, S>(rule, begin, end, hashes, w, g, rest + 1, head..., static_cast<typename S::Kept*>(*rest));
  }
}

// The functions of the table, for elements begin..end-1.
template <class R, class T, class W, class S>
void update(const Coefficients& c, void* w, const void* g, void* const* states, Index begin, Index end,
            RunHashes* hashes) {
  using Kept = typename W::Kept;
  const R& rule = *reinterpret_cast<const R*>(c.bytes);
  unpack<n_states<R, T>, W, S>(rule, begin, end, hashes, static_cast<Kept*>(w), static_cast<const Kept*>(g), states);
}

template <class R, class T, class W, class S>
void update_decayed(const Coefficients& c, const Preparation& p, void* w, const void* g, void* const* states,
                    Index begin, Index end, RunHashes* hashes) {
  using Kept = typename W::Kept;
  const DecayedRule<R, T> rule{*reinterpret_cast<const R*>(c.bytes), PreparedGradient<T>(p), T(c.decay)};
  unpack<n_states<R, T>, W, S>(rule, begin, end, hashes, static_cast<Kept*>(w), static_cast<const Kept*>(g), states);
}

// A rule's kernels: for each type plain and decayed, and for float32 with w and g in bfloat16, the states not or too.
template <class R, class T>
constexpr Update update_of() {
  using W = AsIs<T>;
  Update update_of_rule{coefficients<R>, {update<R, T, W, W>, update_decayed<R, T, W, W>}, {}};
  if constexpr (sizeof(T) == 4) {
    using H = InBFloat16;
    update_of_rule.apply_bfloat16[0] = {update<R, T, H, W>, update_decayed<R, T, H, W>};
    update_of_rule.apply_bfloat16[1] = {update<R, T, H, H>, update_decayed<R, T, H, H>};
  }
  return update_of_rule;
}

// Each row's struct under its row's name, such as rule_adam_outside<T>, then the table: a row for each rule.
// clang-format off
#define TYPES(name, family, form, variant, hyper, states, ...) template <class T> using rule_##name = __VA_ARGS__;
FOR_EACH_RULE(TYPES)

#define ROW(name, family, form, variant, hyper, states, ...)                              \
  {#name, #family, #form, #variant, hyper, states,                                        \
   arity(&rule_##name<float>::at), n_states<rule_##name<float>, float>,                   \
   {update_of<rule_##name<float>, float>(), update_of<rule_##name<double>, double>()}},
constexpr Rule kRules[] = {FOR_EACH_RULE(ROW)};
// clang-format on

// The other tables, a row for each type.
template <class T>
constexpr OptionKernels option_kernels = {prepare_gradient<T, false>, prepare_gradient<T, true>, average<T>,
                                          flush_subnormals<T>, all_finite<T>};

template <class T, class Terms>
constexpr Sum sum_of() {
  return {run_blocks<T, Terms>, column_blocks<T, Terms>};
}

template <class T, template <class, bool> class Direction, bool relu>
constexpr BatchNormKernel batchnorm_kernel_of() {
  using D = Direction<T, relu>;
  return {prepare<D, T>, add_blocks<D, T>, finish<D, T>, apply<D, T>};
}

// Inference sums nothing.
template <class T, bool relu>
constexpr BatchNormKernel inference_of() {
  using D = Inference<T, relu>;
  return {prepare<D, T>, nullptr, nullptr, apply<D, T>};
}

#define DIRECTIONS(T)                                                                            \
  {                                                                                              \
    {batchnorm_kernel_of<T, Forward, false>(), batchnorm_kernel_of<T, Forward, true>()},         \
        {batchnorm_kernel_of<T, Backward, false>(), batchnorm_kernel_of<T, Backward, true>()}, { \
      inference_of<T, false>(), inference_of<T, true>()                                          \
    }                                                                                            \
  }

template <class T>
constexpr MseKernels mse_kernels = {mse_widen<T>, mse_block<T>, mse_gradient<T>, mse_loss, mse_row<T>};

template <class T>
constexpr ConvolutionKernels convolution_kernels = {convolution_tile<T>, convolution_weight_tile<T>,
                                                    convolution_input_tile<T>};

template <class T>
constexpr LeafKernels leaf_kernels = {weigh_leaf<T>, add_leaves<T>, average_leaves<T>};

#define FUNCTION_ROW(name, ...) {#name, {map<__VA_ARGS__, float>, map<__VA_ARGS__, double>}},
constexpr Function kFunctions[] = {FOR_EACH_FUNCTION(FUNCTION_ROW)};

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
    sizeof(kRules) / sizeof(kRules[0]),
    {roof_kernels<1>, roof_kernels<2>, roof_kernels<3>, roof_kernels<4>},
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
    {leaf_kernels<float>, leaf_kernels<double>},
    {{fingerprint_blocks<Fingerprinted32>, fingerprint_blocks<Fingerprinted64>, fingerprint_blocks<FingerprintedBF16>,
      fingerprint_blocks<FingerprintedF16>, fingerprint_blocks<FingerprintedBits>},
     finish_fingerprint},
    {DIRECTIONS(float), DIRECTIONS(double)},
    {update_running<float>, update_running<double>},
    {mse_kernels<float>, mse_kernels<double>},
    {product_tile<float>, product_tile<double>},
    {relu_gradient<float>, relu_gradient<double>},
    {round_sums<float>, round_sums<double>},
    {convolution_kernels<float>, convolution_kernels<double>},
    kFunctions,
    sizeof(kFunctions) / sizeof(kFunctions[0]),
    {softmax_rows<float>, softmax_rows<double>},
    softmax_mean,
};

}  // namespace samestep
