// Copies some blocks of a step, has another thread step the copies, and compares.
#include "run/step_check.h"

#include <algorithm>
#include <cstring>

#include "contract/sampling.h"
#include "run/fp_mode.h"

namespace samestep {
namespace {

// The fields of a tensor that point to arrays, in the order of kinds_of().
std::vector<void**> arrays_of(Tensor& t, int n_states) {
  std::vector<void**> arrays{const_cast<void**>(&t.g), &t.w};
  for (int s = 0; s < n_states; ++s) arrays.push_back(&t.states[s]);
  for (void** stored : {&t.ema, &t.master, &t.low, &t.copy}) {
    if (*stored != nullptr) arrays.push_back(stored);
  }
  return arrays;
}

std::uint64_t bits_at(const void* array, Index bytes, Index i) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, at(array, bytes, i), bytes);
  return bits;
}

// Which NaN comes out of two depends on the loop that an element goes through, and so it may differ.
bool is_nan(Contents contents, std::uint64_t bits) {
  switch (contents) {
    case numbers32:
      return (bits & 0x7fffffff) > 0x7f800000;
    case numbers64:
      return (bits & 0x7fffffffffffffff) > 0x7ff0000000000000;
    case numbers_bfloat16:
      return (bits & 0x7fff) > 0x7f80;
    case numbers_float16:
      return (bits & 0x7fff) > 0x7c00;
    default:
      return false;
  }
}

}  // namespace

StepCheck::StepCheck(const std::vector<Tensor>& tensors, int n_states, Index blocks, Index step)
    : tensors_(tensors), n_states_(n_states) {
  Index all = 0;
  for (const Tensor& t : tensors) all += t.g == nullptr ? 0 : ceil_div(t.size, kSumBlock);
  if (all == 0) return;
  const Index count = std::min(blocks, all);
  std::uint64_t random[4];
  philox({std::uint64_t(step), 0, 0, 0}, 0, random);
  // At equal distances, from a random block on.
  std::vector<Index> chosen;
  for (Index i = 0; i < count; ++i) chosen.push_back((Index(random[0] % all) + i * all / count) % all);
  std::sort(chosen.begin(), chosen.end());
  Index before = 0;
  auto next = chosen.begin();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Index own = tensors[i].g == nullptr ? 0 : ceil_div(tensors[i].size, kSumBlock);
    for (; next != chosen.end() && *next < before + own; ++next) {
      const Index begin = (*next - before) * kSumBlock;
      blocks_.push_back({Index(i), begin, std::min(begin + kSumBlock, tensors[i].size), tensors[i], {}});
    }
    before += own;
  }
  for (Block& block : blocks_) {
    Kind kinds[kMostKinds];
    kinds_of(block.copy, n_states, kinds);
    int k = 0;
    for (void** array : arrays_of(block.copy, n_states)) {
      const Index bytes = kinds[k++].bytes;
      const char* from = at(*array, bytes, block.begin);
      block.memory.emplace_back(from, from + (block.end - block.begin) * bytes);
      // The address that element 0 would have.
      *array = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(block.memory.back().data()) -
                                       std::uintptr_t(block.begin * bytes));
    }
  }
}

void StepCheck::start(const Pass& pass, const std::vector<Coefficients>& coefficients, const std::vector<Index>& of) {
  thread_ = std::thread([&] {
    FpMode mode;
    for (const Block& b : blocks_) pass.step_unrecorded(b.copy, b.tensor, coefficients[of[b.tensor]], b.begin, b.end);
  });
}

std::optional<Mismatch> StepCheck::compare() {
  join();
  for (const Block& block : blocks_) {
    Kind stepped[kMostKinds];
    const int n = kinds_of(tensors_[block.tensor], n_states_, stepped);
    for (int k = 0; k < n; ++k) {
      const auto [array, contents, bytes] = stepped[k];
      const char *x = at(array, bytes, block.begin), *y = block.memory[k].data();
      if (std::memcmp(x, y, (block.end - block.begin) * bytes) == 0) continue;
      for (Index i = 0; i < block.end - block.begin; ++i) {
        const std::uint64_t a = bits_at(x, bytes, i), b = bits_at(y, bytes, i);
        if (a == b || (is_nan(contents, a) && is_nan(contents, b))) continue;
        return Mismatch{block.tensor, k, block.begin + i, a, b};
      }
    }
  }
  return std::nullopt;
}

}  // namespace samestep
