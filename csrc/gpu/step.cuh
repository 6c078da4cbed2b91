// A step of a rule, with options, over a list of tensors in one launch. The formulas are those of rules.h, options.h
// and storage.h, the order of the options is that of run/pass.cpp.
#pragma once
#include "contract/fp.h"
#include "contract/options.h"
#include "contract/philox.h"
#include "contract/rules.h"
#include "contract/storage.h"
#include "contract/types.h"
#include "gpu/fingerprint.cuh"
#include "gpu/storage.cuh"
#include "gpu/tensors.cuh"
#include "gpu/threads.cuh"
#include "gpu/updates.cuh"

namespace samestep {
namespace {

struct StepArguments {
  const Row* rows;
  const Given* given;
  const Update* updates;
  const Item* items;  // of tensors that one kernel steps; whole blocks of bytes
  Index per_item;
  double clip_value, ema;
  Index flush;            // not 0: subnormals of the states become +0
  Index decoupled;        // not 0: the weight decay is
  Index zeroes;           // not 0: gradients become +0
  Index rounds_randomly;  // not 0: parameters that are kept in bfloat16, by this seed:
  Word64 seed;
  Word64* sums;  // (tensors, kinds), of the fingerprints of gradient, parameter and all else that is written
  Index kinds;
};

// The rule alone; with the gradient prepared and the states flushed; with that and decoupled weight decay; with all
// options and what is kept in 16 bits. One kernel per variant, and others that make fingerprints, so that a plain step
// pays nothing for what it was not asked for: not even registers.
enum Variant { kPlain, kOptions, kDecoupled, kStored };

// w_i, states_i = rule(w_i, prepared(g_i), states_i) for the elements of one tensor.
enum Decay { kCoupled, kApart, kEither };  // fixed for a list of tensors, or found for each
template <class R, class T, bool is_plain, Decay decay>
struct Stepped {
  const R rule;
  const PreparedGradient<T> prepared;
  const bool decays, decays_apart, flush;
  const T d;  // lr*weight_decay, of Decayed

  Stepped(const StepArguments& a, const Update& u)
      : rule(*reinterpret_cast<const R*>(u.coefficients.bytes)),
        prepared(Preparation{u.scale, a.clip_value, u.weight_decay}),
        decays(a.decoupled == 0 && u.weight_decay != 0.0),
        decays_apart(a.decoupled != 0 && u.weight_decay != 0.0),
        flush(a.flush != 0),
        d(T(u.coefficients.decay)) {}

  template <class... States>
  HD void operator()(T& w, T g, States&... states) const {
    if constexpr (!is_plain) g = prepared(w, g, decays);
    if constexpr (decay == kCoupled) {
      rule(w, g, states...);
    } else if (decay == kApart || decays_apart) {
      Decayed<T> decayed{w, d};
      rule(decayed, g, states...);
      w = decayed.w;
    } else {
      rule(w, g, states...);
    }
    if constexpr (!is_plain) {
      if (flush) ((states = flushed(states)), ...);
    }
  }
};

// The body of for_each() where everything is kept as it is computed.
template <class R, class T, bool is_plain, Decay decay, int... k>
struct UpdateElements {
  const Stepped<R, T, is_plain, decay> step;
  T* w;
  const T* g;
  T* states[sizeof...(k) + 1];

  UpdateElements(const StepArguments& a, const Update& u, const Row& row, const Given& given)
      : step(a, u),
        w(static_cast<T*>(row.w)),
        g(static_cast<const T*>(given.g)),
        states{static_cast<T*>(row.states[k])...} {}

  template <class P>
  void run(Index i) const {
    P w_i = load_pack<P>(w + i);
    const P g_i = load_pack<P>(g + i);
    P states_i[sizeof...(k) + 1] = {load_pack<P>(states[k] + i)...};
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) step(w_i.at[e], g_i.at[e], states_i[k].at[e]...);
    store_pack(w + i, w_i);
    (store_pack(states[k] + i, states_i[k]), ...);
  }
};

// The body where something is kept in 16 bits, averaged or set to zero. What a tensor has is the same for all threads.
template <class R, class T, bool zeroes_later, int... k>
struct UpdateStored {
  const Stepped<R, T, false, kEither> step;
  const Average<T> averaged;
  const StepArguments& a;
  const Row& row;
  void* const g;
  const Index t, tensor;

  UpdateStored(const StepArguments& a, const Update& u, const Row& row, const Given& given, Index tensor)
      : step(a, u), averaged(a.ema), a(a), row(row), g(given.g), t(u.t), tensor(tensor) {}

  template <class P>
  void run(Index i) const {
    const Storage storage = Storage(row.storage);
    [[maybe_unused]] const Storage of_states = row.stores_states ? storage : as_is;
    P w_i = load_parameter<P>(storage, i);
    const P g_i = load_stored<P>(g, storage, i);
    P states_i[sizeof...(k) + 1] = {load_stored<P>(row.states[k], of_states, i)...};
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) step(w_i.at[e], g_i.at[e], states_i[k].at[e]...);
    (store_stored(row.states[k], of_states, i, states_i[k]), ...);
    if (row.ema != nullptr) {
      T* ema = static_cast<T*>(row.ema) + i;
      P ema_i = load_pack<P>(ema);
#pragma unroll
      for (int e = 0; e < P::kSize; ++e) ema_i.at[e] = averaged(ema_i.at[e], w_i.at[e]);
      store_pack(ema, ema_i);
    }
    if (row.copy != nullptr) store_stored(row.copy, Storage(row.copy_storage), i, w_i);
    store_parameter(storage, i, w_i);
    if (a.zeroes && !zeroes_later) zero<P>(i);
  }

  template <class P>
  void zero(Index i) const {
    store_stored(g, Storage(row.storage), i, P{});
  }

 private:
  template <class P>
  P load_parameter(Storage storage, Index i) const {
    if (row.master != nullptr) return load_pack<P>(static_cast<const T*>(row.master) + i);
    if constexpr (sizeof(T) == 4) {
      if (row.low != nullptr) {
        const auto upper = load_pack<Halves<P>>(static_cast<const Half*>(row.w) + i);
        const auto lower = load_pack<Halves<P>>(static_cast<const Half*>(row.low) + i);
        P w_i;
#pragma unroll
        for (int e = 0; e < P::kSize; ++e) w_i.at[e] = Split::join(upper.at[e], lower.at[e]);
        return w_i;
      }
    }
    return load_stored<P>(row.w, storage, i);
  }

  template <class P>
  void store_parameter(Storage storage, Index i, const P& w_i) const {
    if (row.master != nullptr) store_pack(static_cast<T*>(row.master) + i, w_i);
    if constexpr (sizeof(T) == 4) {
      if (row.low != nullptr) return store_split(i, w_i);
      if (a.rounds_randomly && storage == bfloat16 && row.master == nullptr) return store_at_random(i, w_i);
    }
    store_stored(row.w, storage, i, w_i);
  }

  template <class P>
  void store_split(Index i, const P& w_i) const {
    Halves<P> upper, lower;
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) {
      const Word bits = Split::of(w_i.at[e]);
      upper.at[e] = Half(bits >> 16);
      lower.at[e] = Half(bits);
    }
    store_pack(static_cast<Half*>(row.w) + i, upper);
    store_pack(static_cast<Half*>(row.low) + i, lower);
  }

  // Sixteen elements share a block of the generator, four a word. A pack begins at a multiple of its size.
  template <class P>
  void store_at_random(Index i, const P& w_i) const {
    PhiloxWord words[4];
    philox({PhiloxWord(i / 16) + 1, PhiloxWord(tensor), PhiloxWord(t), 0}, a.seed, words);
    const int at = i / 4 % 4;  // selected, not indexed, which would keep the words in memory
    const PhiloxWord word = at == 0 ? words[0] : at == 1 ? words[1] : at == 2 ? words[2] : words[3];
    Halves<P> rounded;
#pragma unroll
    for (int e = 0; e < P::kSize; ++e) {
      rounded.at[e] = BFloat16::narrow_at_random(w_i.at[e], Half(word >> ((i + e) % 4 * 16)));
    }
    store_pack(static_cast<Half*>(row.w) + i, rounded);
  }
};

// Adds the hashes of elements begin..end-1 of everything that a step reads and writes, as far as there are kinds.
template <class T, int n_states>
inline void hash_stored(const StepArguments& a, const Row& row, const void* g, Index begin, Index end, Word64* sums) {
  constexpr int kMost = n_states + 6;
  const void* arrays[kMost];
  Storage storages[kMost];
  int n = 0;
  const auto list = [&](const void* array, Index storage) {
    if (array != nullptr) arrays[n] = array, storages[n++] = Storage(storage);
  };
  constexpr Index kBits = kStorages;  // no numbers
  list(g, row.storage);
  list(row.w, row.storage);
  for (int s = 0; s < n_states; ++s) list(row.states[s], row.stores_states ? row.storage : Index(as_is));
  list(row.ema, as_is);
  list(row.master, as_is);
  list(row.low, kBits);
  list(row.copy, row.copy_storage);
#pragma unroll 1
  for (int s = 0; s < n && s < a.kinds; ++s) {
    const bool aligned = is_aligned(arrays[s]);
    const Index bytes = storages[s] == as_is ? sizeof(T) : 2;
    const Index before = row.first * bytes / kFingerprintBytes;
    const Index first = begin * bytes / kFingerprintBytes, last = ceil_div(end * bytes, kFingerprintBytes);
    const T* const as_is_array[1] = {static_cast<const T*>(arrays[s])};
    [[maybe_unused]] const Half* const halves[1] = {static_cast<const Half*>(arrays[s])};
    if (storages[s] == as_is) {
      add_block_sums<Fingerprinted<T>>(as_is_array, row.size, aligned, before, first, last, sums + s);
    } else if constexpr (sizeof(T) == 4) {
      if (storages[s] == bfloat16) {
        add_block_sums<FingerprintedBF16>(halves, row.size, aligned, before, first, last, sums + s);
      } else if (storages[s] == float16) {
        add_block_sums<FingerprintedF16>(halves, row.size, aligned, before, first, last, sums + s);
      } else {
        add_block_sums<FingerprintedBits>(halves, row.size, aligned, before, first, last, sums + s);
      }
    }
    __syncthreads();  // the sums of the block's warps are read
  }
}

// One item of the list: a block of threads steps per_item elements of one tensor, if it takes part.
template <class R, class T, Variant variant, bool fingerprints, int... k>
inline void step_item(const StepArguments& a, Numbers<k...>) {
  const Item item = a.items[blockIdx.x];
  const Update& update = a.updates[item.tensor];
  if (update.t == 0) return;
  const Row& row = a.rows[item.tensor];
  const Given& given = a.given[item.tensor];
  bool aligned = is_aligned(row.w) && is_aligned(given.g) && (is_aligned(row.states[k]) && ... && true);
  const Index end = smaller(row.size, item.begin + a.per_item);
  Word64* sums = a.sums + item.tensor * a.kinds;
  if constexpr (variant == kStored) {
    aligned = aligned && is_aligned(row.ema) && is_aligned(row.master) && is_aligned(row.low) && is_aligned(row.copy);
    const UpdateStored<R, T, fingerprints, k...> body(a, update, row, given, item.tensor);
    for_each<T>(body, aligned, item.begin, end);
    if constexpr (fingerprints) {
      __syncthreads();  // all threads have stepped; what they have read and written is in the nearest cache
      hash_stored<T, sizeof...(k)>(a, row, given.g, item.begin, end, sums);
      if (!a.zeroes) return;
      for (Index i = item.begin + threadIdx.x; i < end; i += blockDim.x) body.template zero<Single<T>>(i);
    }
  } else {
    if (variant == kDecoupled && update.weight_decay != 0.0) {
      using Body = UpdateElements<R, T, false, variant == kDecoupled ? kApart : kCoupled, k...>;
      for_each<T>(Body(a, update, row, given), aligned, item.begin, end);
    } else {
      using Body = UpdateElements<R, T, variant == kPlain, kCoupled, k...>;
      for_each<T>(Body(a, update, row, given), aligned, item.begin, end);
    }
    if constexpr (fingerprints) {
      __syncthreads();  // as above
      constexpr Index kPerBlock = kFingerprintBytes / sizeof(T);
      const T* const arrays[] = {static_cast<const T*>(given.g), static_cast<const T*>(row.w),
                                 static_cast<const T*>(row.states[k])...};
      add_block_sums<Fingerprinted<T>>(arrays, row.size, aligned, row.first / kPerBlock, item.begin / kPerBlock,
                                       ceil_div(end, kPerBlock), sums);
    }
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
