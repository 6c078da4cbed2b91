// The memory that a step writes.
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

// What a step writes.
class Written {
 public:
  void add(const void* data, Index bytes) {
    const char* begin = static_cast<const char*>(data);
    if (bytes > 0) ranges_.push_back({begin, begin + bytes});
  }
  void sort() { std::sort(ranges_.begin(), ranges_.end()); }

  // Whether no two of them overlap. Sorted, as below.
  bool is_disjoint() const {
    for (size_t k = 1; k < ranges_.size(); ++k) {
      if (ranges_[k].begin < ranges_[k - 1].end) return false;
    }
    return true;
  }
  bool overlaps(const char* begin, Index bytes) const {
    auto after = std::upper_bound(ranges_.begin(), ranges_.end(), Range{begin, nullptr});
    if (after != ranges_.end() && after->begin < begin + bytes) return true;
    return after != ranges_.begin() && bytes > 0 && std::prev(after)->end > begin;
  }

 private:
  std::vector<Range> ranges_;
};

}  // namespace samestep
