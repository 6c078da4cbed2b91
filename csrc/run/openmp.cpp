#include "run/openmp.h"

#include <dlfcn.h>

#include <atomic>

#include "run/threads.h"

namespace samestep {
namespace {

// Never freed, since another thread may be running on it.
std::atomic<const OpenMpTeam*> team{nullptr};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  reinterpret_cast<void*&>(function) = dlsym(library, name);
  return function != nullptr;
}

}  // namespace

bool use_openmp_of(const char* library) {
  // A search in the library's handle goes through what it is linked to, and so finds the runtime that it uses. A
  // process may hold several, and packagers rename them.
  void* loaded = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (loaded == nullptr) return false;
  // LLVM's and Intel's runtimes have libgomp's entry points too, and a team of other habits behind them.
  const bool is_gnu = dlsym(loaded, "__kmpc_fork_call") == nullptr;
  OpenMpTeam found;
  if (!is_gnu || !find(loaded, "GOMP_parallel", found.parallel_) ||
      !find(loaded, "omp_get_max_threads", found.max_threads_) ||
      !find(loaded, "omp_get_thread_num", found.thread_num_) || !find(loaded, "omp_in_parallel", found.in_parallel_)) {
    dlclose(loaded);
    return false;
  }
  found.fork_generation_ = fork_generation();
  team.store(new OpenMpTeam(found));  // `loaded` stays open, and so the runtime loaded
  return true;
}

void use_own_threads() { team.store(nullptr); }

const OpenMpTeam* openmp_team(int threads) {
  const OpenMpTeam* t = team.load();
  const bool is_usable = t != nullptr && t->fork_generation_ == fork_generation() && threads <= t->max_threads_() &&
                         t->in_parallel_() == 0;
  return is_usable ? t : nullptr;
}

void OpenMpTeam::run(void (*part)(void* context, int thread), void* context, int threads) const {
  struct Region {
    const OpenMpTeam& team;
    void (*part)(void* context, int thread);
    void* context;
    int threads;
  } region{*this, part, context, threads};
  auto run_part = [](void* argument) {
    const Region& r = *static_cast<Region*>(argument);
    const int thread = r.team.thread_num_();
    if (thread < r.threads) r.part(r.context, thread);
  };
  // The whole team, though some may have no part: asked for fewer, libgomp would end the others and start them again
  // for the next region of the library.
  parallel_(run_part, &region, static_cast<unsigned>(max_threads_()), 0);
}

}  // namespace samestep
