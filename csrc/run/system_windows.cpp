// Windows: no signals that run on a thread of the pool, and no fork.
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
// After it.
#include <process.h>

#include <cstdint>
#include <memory>
#include <new>

#include "run/system.h"

namespace samestep {
namespace {

struct Start {
  void (*run)(void* context, int thread);
  void* context;
  int thread;
};

unsigned __stdcall run_started(void* argument) {
  const Start start = *std::unique_ptr<Start>(static_cast<Start*>(argument));
  start.run(start.context, start.thread);
  return 0;
}

}  // namespace

bool start_detached(void (*run)(void*, int), void* context, int thread, std::size_t stack_bytes) {
  std::unique_ptr<Start> start(new (std::nothrow) Start{run, context, thread});
  if (start == nullptr) return false;
  // Without the flag so much memory would be taken at once, and not as the stack grows.
  const std::uintptr_t handle = _beginthreadex(nullptr, static_cast<unsigned>(stack_bytes), run_started, start.get(),
                                               STACK_SIZE_PARAM_IS_A_RESERVATION, nullptr);
  if (handle == 0) return false;
  start.release();
  CloseHandle(reinterpret_cast<HANDLE>(handle));
  return true;
}

bool call_in_forked_child(void (*)()) { return false; }

int granted_processors() {
  DWORD_PTR mask = 0, all = 0;
  GetProcessAffinityMask(GetCurrentProcess(), &mask, &all);
  int n = 0;
  for (; mask != 0; mask &= mask - 1) ++n;
  // No mask: the process has threads in several groups of 64 processors.
  if (n == 0) n = static_cast<int>(GetActiveProcessorCount(ALL_PROCESSOR_GROUPS));
  return n > 0 ? n : 1;
}

}  // namespace samestep
