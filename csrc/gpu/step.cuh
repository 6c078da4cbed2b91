// A step of a rule, with options, over a list of tensors in one launch. The formulas are those of rules.h and
// options.h.
#pragma once
#include "contract/fp.h"
#include "contract/options.h"
#include "contract/rules.h"
#include "contract/types.h"
#include "gpu/fingerprint.cuh"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

// Tables in the GPU's memory: rows (tensors) and items (blocks of threads) are written once, when parameters are bound;
// given (tensors) when gradients have moved.
struct Row {
  void* w;          // (size)
  Index size;       // elements
  void* states[1];  // (size) each; as many as the rule has, so that rows of the table are that long
};
struct GivenGradient {
  const void* g;  // (size)
  Index launch;   // number of the launch that steps this tensor; -1: no gradient, no step
};
struct Item {  // elements begin .. begin + per_item - 1 of a tensor, for one block of threads; whole blocks of bytes
  Index tensor, begin;
};

struct StepArguments {
  Coefficients coefficients;
  double scale, clip_value, weight_decay;  // of Preparation
  Index flush;                             // not 0: subnormals of the states become +0
  const char* rows;
  const GivenGradient* given;
  const Item* items;
  Index launch, per_item;
  Word64* sums;  // (tensors, 2 + states), of the fingerprints of gradient, parameter and states
};

// The numbers 0..n-1 as template arguments: std::make_integer_sequence, for whose header NVRTC would need a path.
template <int... k>
struct Numbers {};
template <int n, int... k>
struct UpTo : UpTo<n - 1, n - 1, k...> {};
template <int... k>
struct UpTo<0, k...> {
  using type = Numbers<k...>;
};

// The rule alone, with the options of options.h, or with these and decoupled weight decay. One kernel per variant, and
// others that make fingerprints, so that a plain step pays nothing for either: not even registers.
enum Variant { kPlain, kOptions, kDecoupled };

// w_i, states_i = rule(w_i, prepared(g_i), states_i) for one tensor; the body of for_each().
template <class R, class T, Variant variant, int... k>
struct UpdateElements {
  const R rule;
  const PreparedGradient<T> prepared;
  const bool decays, flush;
  const T d;  // lr*weight_decay, of Decayed
  T* w;
  const T* g;
  T* const* states;

  HD void update(T& w_e, T g_e, decltype(T(k))&... states_e) const {
    if constexpr (variant != kPlain) g_e = prepared(w_e, g_e, decays);
    if constexpr (variant == kDecoupled) {
      Decayed<T> decayed{w_e, d};
      rule(decayed, g_e, states_e...);
      w_e = decayed.w;
    } else {
      rule(w_e, g_e, states_e...);
    }
    if constexpr (variant != kPlain) {
      if (flush) ((states_e = flushed(states_e)), ...);
    }
  }

  template <class P>
  void run(Index i) const {
    P w_i = load_pack<P>(w + i);
    const P g_i = load_pack<P>(g + i);
    P states_i[sizeof...(k) + 1] = {load_pack<P>(states[k] + i)...};
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) update(w_i.at[e], g_i.at[e], states_i[k].at[e]...);
    store_pack(w + i, w_i);
    (store_pack(states[k] + i, states_i[k]), ...);
  }
};

// One item of the list: a block of threads steps per_item elements of one tensor, if this launch is the tensor's.
template <class R, class T, Variant variant, bool fingerprints, int... k>
inline void step_item(const StepArguments& a, Numbers<k...>) {
  // What to step: an item, its tensor's gradient, and the row of addresses.
  const Item item = a.items[blockIdx.x];
  const GivenGradient given = a.given[item.tensor];
  if (given.launch != a.launch) return;
  constexpr int kRowBytes = sizeof(void*) + sizeof(Index) + sizeof...(k) * sizeof(void*);
  const Row& row = *reinterpret_cast<const Row*>(a.rows + item.tensor * kRowBytes);
  T* const states[sizeof...(k) + 1] = {static_cast<T*>(row.states[k])...};
  const UpdateElements<R, T, variant, k...> body{
      *reinterpret_cast<const R*>(a.coefficients.bytes),
      PreparedGradient<T>(Preparation{a.scale, a.clip_value, a.weight_decay}),
      a.weight_decay != 0.0,
      a.flush != 0,
      T(a.coefficients.decay),
      static_cast<T*>(row.w),
      static_cast<const T*>(given.g),
      states};
  const bool aligned = is_aligned(row.w) && is_aligned(given.g) && (is_aligned(row.states[k]) && ... && true);
  const Index end = smaller(row.size, item.begin + a.per_item);
  for_each<T>(body, aligned, item.begin, end);
  if constexpr (fingerprints) {
    __syncthreads();  // all threads have stepped; what they have read and written is in the nearest cache
    constexpr Index kPerBlock = kFingerprintBytes / sizeof(T);
    const T* const arrays[] = {body.g, body.w, states[k]...};
    add_block_sums<Fingerprinted<T>>(arrays, row.size, aligned, item.begin / kPerBlock, ceil_div(end, kPerBlock),
                                     a.sums + item.tensor * (sizeof...(k) + 2));
  }
}

// Numbers<0, 1, ...> for the states of a rule, deduced from operator()(w, g, states...), which may be a template over
// the type of w.
template <class R, class T, class... States>
typename UpTo<sizeof...(States)>::type numbers_of(void (R::*)(T&, T, States&...) const);
template <class R, class T>
auto states_of(int) -> decltype(numbers_of<R, T>(&R::template operator()<T>));
template <class R, class T>
auto states_of(long) -> decltype(numbers_of<R, T>(&R::operator()));

template <class R, class T, Variant variant, bool fingerprints = false>
void step(const StepArguments& a) {
  step_item<R, T, variant, fingerprints>(a, decltype(states_of<R, T>(0)){});
}

// to[i] = words[i], i = 0..count-1: how `given` is updated. The words travel as the argument of a launch, in order with
// the step's; a copy from the host's memory would have to be waited for, since that memory changes with the next step.
constexpr int kWords = 480;  // with the two other fields within the 4 KiB that arguments may have
struct WordArguments {
  unsigned long long* to;
  Index count;
  unsigned long long words[kWords];
};

void store_words(const WordArguments& a) {
  for (Index i = threadIdx.x; i < a.count; i += blockDim.x) a.to[i] = a.words[i];
}

}  // namespace
}  // namespace samestep
