// What the thread pool asks of the operating system. One source for each: system_posix.cpp, system_windows.cpp.
#pragma once

#include <cstddef>

namespace samestep {

// Starts run(context, thread) on a thread that nobody waits for, with so much stack. No signal is handled on it: the
// application's handlers run on its own threads. False: the system refuses a thread or memory.
bool start_detached(void (*run)(void* context, int thread), void* context, int thread, std::size_t stack_bytes);

// Has the function called at the start of each forked child. False: it will not be, as where there is no fork.
bool call_in_forked_child(void (*function)());

// Processors that this process may use: those of its affinity mask, or fewer where a quota grants fewer; at least 1.
int granted_processors();

}  // namespace samestep
