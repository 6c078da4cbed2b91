// Runs numbered work items on a pool of threads. It does not know what an item does.
#pragma once

#include <algorithm>
#include <limits>

#include "isa/kernels.h"

namespace samestep {

using Task = void (*)(void* context, Index item);

// Calls task(context, i) once for each i in 0..items-1, in the contract's floating-point mode, and returns when all are
// done. The caller's thread works too, and alone where there is one item, one thread, or a pool that is busy with
// another caller. Which thread runs which item is left open, so items must not depend on each other; a task must not
// throw, since nobody could catch that in a helper.
//
// worth_waking: false where the work takes no longer than waking a thread. Threads still awake from the last job help.
// most_threads: where fewer than get_num_threads() are to take part.
void run_items(Index items, Task task, void* context, bool worth_waking = true,
               int most_threads = std::numeric_limits<int>::max());

// run(begin, end) over 0..count-1, cut into work items of per_item, or of 1 where that is less.
template <class Run>
void run_parts(Index count, Index per_item, const Run& run, bool worth_waking = true) {
  struct Parts {
    const Run& run;
    Index count, per_item;
  } parts{run, count, std::max<Index>(1, per_item)};
  run_items(
      ceil_div(count, parts.per_item),
      [](void* context, Index item) {
        const Parts& p = *static_cast<const Parts*>(context);
        p.run(item * p.per_item, std::min(p.count, (item + 1) * p.per_item));
      },
      &parts, worth_waking);
}

// Wakes threads for work of any size, so that tests run small work on many threads; returns the previous setting.
bool wake_always(bool on);

// How many forks lie between the process that loaded this library and this one. What a thread was doing in an earlier
// process will never be finished here.
int fork_generation();

int get_num_threads();        // granted_processors() of system.h, unless it was set
void set_num_threads(int n);  // n >= 1

}  // namespace samestep
