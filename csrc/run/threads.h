// Runs numbered work items on a pool of threads. It knows nothing of what an item does.
#pragma once

#include "isa/kernels.h"

namespace samestep {

using Task = void (*)(void* context, Index item);

// Calls task(context, i) once for each i in 0..items-1 and returns when all are done. The caller takes part; every
// thread runs in the contract's floating-point mode. Which thread takes which item is left open: items must not
// depend on each other, and a task must not throw: a helper has nobody to throw to. One item, one thread, or a pool
// that is busy with another caller: everything runs here. Not worth_waking: the work takes no longer than waking a
// thread. Threads that are still awake from the last job help.
void run_items(Index items, Task task, void* context, bool worth_waking = true);

// Wakes threads for work of any size, so that tests see small work on many threads; returns what was set before.
bool wake_always(bool on);

// How many forks lie between the process that loaded this and the one that runs: what a thread of an earlier one was
// doing will never be finished here.
int fork_generation();

int get_num_threads();
void set_num_threads(int n);  // n >= 1
int default_num_threads();    // processors of the affinity mask, less where a cgroup grants less

}  // namespace samestep
