// The memory that a step writes, and which gradients share none of it.
#pragma once

#include <algorithm>
#include <iterator>
#include <vector>

#include "isa/kernels.h"

namespace samestep {

struct Range {
  const char *begin, *end;
  bool operator<(const Range& other) const { return begin < other.begin; }
};

class Written {
 public:
  void add(const void* data, Index bytes) {
    const char* begin = static_cast<const char*>(data);
    if (bytes > 0) ranges_.push_back({begin, begin + bytes});
  }
  void sort() { std::sort(ranges_.begin(), ranges_.end()); }

  // Whether gradient `i` shares no memory with the ranges, which must be sorted. Most gradients lie where they lay in
  // the last step; then nothing is searched.
  bool admits(size_t i, const void* gradient, Index bytes) {
    const char* g = static_cast<const char*>(gradient);
    if (i >= admitted_.size()) admitted_.resize(i + 1);
    if (g == admitted_[i]) return true;
    if (overlaps(g, bytes)) return false;
    admitted_[i] = g;
    return true;
  }

  // Whether no two ranges overlap, which must be sorted.
  bool is_disjoint() const {
    for (size_t k = 1; k < ranges_.size(); ++k) {
      if (ranges_[k].begin < ranges_[k - 1].end) return false;
    }
    return true;
  }

 private:
  bool overlaps(const char* begin, Index bytes) const {
    auto after = std::upper_bound(ranges_.begin(), ranges_.end(), Range{begin, nullptr});
    if (after != ranges_.end() && after->begin < begin + bytes) return true;
    return after != ranges_.begin() && bytes > 0 && std::prev(after)->end > begin;
  }

  std::vector<Range> ranges_;
  std::vector<const char*> admitted_;  // the address of each gradient when it was last admitted
};

}  // namespace samestep
