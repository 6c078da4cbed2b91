// The roof: the least time in which this machine reads and writes the streams of a step. It runs outside of the plan
// and the pool, on threads of its own, because what these two cost is what a benchmark wants to see.
#pragma once

#include <vector>

#include "isa/kernels.h"

namespace samestep {

class Roof {
 public:
  // One tensor's streams: g (size) is read; written[0], written[1], ... (size) are read and written.
  struct Streams {
    const float* g;
    std::vector<float*> written;
    Index size;
  };

  // A way to cut the elements and to fetch them. Which one is fastest depends on the machine and on the size, so that
  // the roof is the fastest of them all.
  struct Way {
    const char* name;
    bool one_thread;  // or as many as the roof has
    Index item;       // elements that a thread claims at a time; 0: an equal part for each thread
    bool ahead;       // prefetches
  };
  // 1 <= threads. All tensors write as many streams, 1 to kMostWritten.
  Roof(std::vector<Streams> tensors, int threads);

  // The ways that differ with so many threads.
  static std::vector<Way> ways(int threads);

  // Seconds that one pass over all elements takes, on average over `passes` which follow each other. Threads are
  // started for this, meet at a barrier, and the clock runs from there until the last of them is done; further passes
  // begin at barriers too. A pass is s = s + c g for each stream s.
  double seconds(const Way& way, Index passes, float c) const;

 private:
  struct Piece {
    Index tensor, begin, end;
  };
  // Item i is pieces[items[i]] .. pieces[items[i + 1] - 1].
  struct Cut {
    std::vector<Piece> pieces;
    std::vector<Index> items;
  };
  Cut cut(Index item) const;

  std::vector<Streams> tensors_;
  int threads_;
  Index size_ = 0;  // elements of all tensors
};

}  // namespace samestep
