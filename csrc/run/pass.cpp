// Takes a run of elements through the options and the 16-bit forms, in chunks that stay in the nearest cache. No
// arithmetic: that is in options.h, storage.h and rules.h.
#include "run/pass.h"

#include <algorithm>

#include "contract/fetch.h"
#include "contract/options.h"
#include "contract/sampling.h"
#include "isa/dispatch.h"

namespace samestep {
namespace {

// Elements that go through all options, and are fingerprinted, while they lie in the nearest cache.
constexpr Index kChunk = 1024;
static_assert(kChunk % kSumBlock == 0 && kSumBlock % (kFingerprintBytes / 2) == 0,
              "chunks are whole blocks of 16 bits");

Kind kept_as(const void* array, Storage storage, Type type) {
  if (storage == bfloat16) return {array, numbers_bfloat16, 2};
  if (storage == float16) return {array, numbers_float16, 2};
  return {array, type == float32 ? numbers32 : numbers64, bytes_of(type)};
}

// 16 random bits for each of elements begin..begin+n-1, the same on every thread: counter-based, sixteen to a block.
// Returns the address of the first in `room`, which holds n + 32.
const std::uint16_t* random_bits(std::uint64_t seed, Index step, Index tensor, Index begin, Index n,
                                 std::uint16_t* room) {
  const Index first = begin / 16;
  for (Index block = first; block * 16 < begin + n; ++block) {
    std::uint64_t words[4];
    philox({std::uint64_t(block) + 1, std::uint64_t(tensor), std::uint64_t(step), 0}, seed, words);
    for (Index i = 0; i < 16; ++i) room[(block - first) * 16 + i] = std::uint16_t(words[i / 4] >> (i % 4 * 16));
  }
  return room + (begin - first * 16);
}

}  // namespace

int kinds_of(const Tensor& t, int n_states, Kind* kinds) {
  int n = 0;
  kinds[n++] = kept_as(t.g, t.storage, t.type);
  kinds[n++] = kept_as(t.w, t.storage, t.type);
  for (int s = 0; s < n_states; ++s) kinds[n++] = kept_as(t.states[s], t.stores_states ? t.storage : as_is, t.type);
  if (t.ema != nullptr) kinds[n++] = kept_as(t.ema, as_is, t.type);
  if (t.master != nullptr) kinds[n++] = kept_as(t.master, as_is, t.type);
  if (t.low != nullptr) kinds[n++] = {t.low, bits16, 2};
  if (t.copy != nullptr) kinds[n++] = kept_as(t.copy, t.copy_storage, t.type);
  return n;
}

Pass::Pass(const std::vector<Tensor>& tensors, const Index* steps) : steps_(steps) {
  for (const Tensor& t : tensors) stores_ = stores_ || t.storage != as_is || t.copy != nullptr;
}

void Pass::start_step(const Isa& isa, int rule, double scale) {
  isa_ = &isa;
  rule_ = &isa.rules[rule];
  scale_ = scale;
  prepares_ = scale != 1.0 || options.maximize || options.clip_value < kNoLimit;
  has_options_ = stores_ || prepares_ || options.zero_grads || options.flush_subnormals || options.ema != 0.0;
  for (double decay : options.weight_decay) has_options_ = has_options_ || decay != 0.0;
}

bool Pass::all_finite(const Tensor& t, Index begin, Index end) const {
  const Isa& isa = active_isa();
  if (t.storage == as_is) {
    return isa.options[t.type].all_finite(at(t.g, bytes_of(t.type), begin), end - begin);
  }
  bool passed = true;
  float widened[kChunk];
  for (; passed && begin < end; begin += kChunk) {
    const Index n = std::min(kChunk, end - begin);
    isa.storage[t.storage].widen(at(t.g, 2, begin), n, widened);
    passed = isa.options[t.type].all_finite(widened, n);
  }
  return passed;
}

Preparation Pass::preparation_of(const Tensor& t) const {
  const double coupled = decays_apart(t) ? 0.0 : options.decay_of(t.group);
  return {options.maximize ? -scale_ : scale_, options.clip_value, coupled};
}

void Pass::apply_decayed(const Apply& apply, const Tensor& t, const Coefficients& coefficients, Index begin, Index end,
                         RunHashes* hashes) const {
  apply.decayed(coefficients, preparation_of(t), t.w, t.g, t.states, begin, end, hashes);
}

// Prefetches elements begin..end-1 of every array that a step reads.
void Pass::fetch(const Tensor& t, Index begin, Index end) const {
  const auto fetch_array = [&](const void* array, Index size_of) {
    if (array != nullptr) samestep::fetch(at(array, size_of, begin), (end - begin) * size_of);
  };
  const Index stored = stored_bytes(t), worked = bytes_of(t.type);
  fetch_array(t.g, stored);
  fetch_array(t.w, stored);
  fetch_array(t.low, stored);
  fetch_array(t.master, worked);
  for (int s = 0; s < rule_->n_states; ++s) fetch_array(t.states[s], t.stores_states ? stored : worked);
  fetch_array(t.ema, worked);
}

void Pass::run_with_options(const Tensor& tensor, Index i, const Coefficients& coefficients, Index first,
                            Index last) const {
  const Type type = tensor.type;
  const Index stored = stored_bytes(tensor), worked = bytes_of(tensor.type), n_states = rule_->n_states;
  const OptionKernels& kernels = isa_->options[type];
  const StorageKernels& storage = isa_->storage[tensor.storage];
  const Apply& apply = rule_->update[type].apply;
  const Preparation preparation = preparation_of(tensor);
  const bool decays = decays_apart(tensor), is_coupled = preparation.weight_decay != 0.0;
  alignas(64) double prepared[kChunk];
  alignas(64) float wide_w[kChunk], wide_g[kChunk], wide_states[kMaxStates][kChunk];
  for (Index begin = first; begin < last; begin += kChunk) {
    const Index n = std::min(kChunk, last - begin);
    if (last - first >= kShortestPrefetched) fetch(tensor, begin + n, std::min(begin + n + kChunk, last));
    void *w = at(tensor.w, stored, begin), *states[kMaxStates];
    const void* g = at(tensor.g, stored, begin);
    for (Index s = 0; s < n_states; ++s) {
      states[s] = at(tensor.states[s], tensor.stores_states ? stored : worked, begin);
      if (!tensor.stores_states) continue;
      storage.widen(states[s], n, wide_states[s]);
      states[s] = wide_states[s];
    }
    if (tensor.storage != as_is) {
      storage.widen(g, n, wide_g);
      g = wide_g;
      if (tensor.master != nullptr) {
        w = at(tensor.master, worked, begin);
      } else if (tensor.low != nullptr) {
        isa_->join(w, at(tensor.low, 2, begin), n, wide_w);
        w = wide_w;
      } else {
        storage.widen(w, n, wide_w);
        w = wide_w;
      }
    }
    if (decays) {
      apply.decayed(coefficients, preparation, w, g, states, 0, n, nullptr);
    } else {
      if (is_coupled || prepares_) {
        (is_coupled ? kernels.prepare_decayed : kernels.prepare)(preparation, w, g, n, prepared);
        g = prepared;
      }
      apply.plain(coefficients, w, g, states, 0, n, nullptr);
    }
    for (Index s = 0; s < n_states; ++s) {
      if (options.flush_subnormals) kernels.flush_subnormals(n, states[s]);
      if (tensor.stores_states) storage.narrow(wide_states[s], n, at(tensor.states[s], stored, begin));
    }
    if (tensor.ema != nullptr) kernels.average(options.ema, w, n, at(tensor.ema, worked, begin));
    if (stores_) store_parameter(tensor, i, begin, n, static_cast<const float*>(w));
    if (options.zero_grads) zero(tensor, begin, begin + n);
  }
}

// Steps a run of elements and adds the hashes of what it was given and of what it left: in the rule's own loop, or,
// with options, chunk by chunk from the nearest cache.
void Pass::record_elements(const Tensor& tensor, Index i, const Coefficients& coefficients, Index first,
                           Index last) const {
  unsigned long long* row = block_sums.rows + i * block_sums.kinds;
  const bool is_all = first == 0 && last == tensor.size;  // no other thread has a part of it
  const auto add_to_row = [&](int k, unsigned long long sum) {
    if (is_all) {
      row[k] += sum;
    } else {
      __atomic_fetch_add(row + k, sum, __ATOMIC_RELAXED);
    }
  };
  if (needs_rule_only(tensor)) {
    RunHashes hashes;
    hashes.first = tensor.first + first;
    run_rule(tensor, coefficients, first, last, &hashes);
    for (int k = 0; k < std::min(hashes.n, block_sums.kinds); ++k) add_to_row(k, hashes.sums[k]);
    return;
  }
  Kind kinds[kMostKinds];
  const int n = std::min(kinds_of(tensor, rule_->n_states, kinds), block_sums.kinds);
  const auto hash = [&](int k, Index begin, Index end) {
    const auto [array, contents, bytes] = kinds[k];
    const Index blocks = ceil_div((end - begin) * bytes, kFingerprintBytes);
    add_to_row(k, isa_->fingerprint.blocks[contents](at(array, bytes, begin), end - begin, 0, blocks,
                                                     (tensor.first + begin) * bytes / kFingerprintBytes));
  };
  for (Index begin = first; begin < last; begin += kChunk) {
    const Index end = std::min(begin + kChunk, last);
    if (last - first >= kShortestPrefetched) fetch(tensor, end, std::min(end + kChunk, last));
    hash(0, begin, end);  // before the gradient is set to zero
    run_with_options(tensor, i, coefficients, begin, end);
    for (int k = 1; k < n; ++k) hash(k, begin, end);
  }
}

// Stores the updated parameter w (n), float32, in all other types in which it is kept.
void Pass::store_parameter(const Tensor& tensor, Index i, Index begin, Index n, const float* w) const {
  if (tensor.copy != nullptr) isa_->storage[tensor.copy_storage].narrow(w, n, at(tensor.copy, 2, begin));
  if (tensor.storage == as_is) return;
  void* to = at(tensor.w, 2, begin);
  if (tensor.low != nullptr) {
    isa_->split(w, n, to, at(tensor.low, 2, begin));
  } else if (options.stochastic_rounding && tensor.storage == bfloat16 && tensor.master == nullptr) {
    std::uint16_t room[kChunk + 32];
    isa_->narrow_at_random(w, random_bits(*options.stochastic_rounding, steps_[i] + 1, i, begin, n, room), n, to);
  } else {
    isa_->storage[tensor.storage].narrow(w, n, to);
  }
}

}  // namespace samestep
