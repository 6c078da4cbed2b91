#include "run/openmp.h"

#include <dlfcn.h>

#include <atomic>
#include <fstream>
#include <sstream>

#include "run/threads.h"

namespace samestep {
namespace {

// Entry points of the runtime, found in what is loaded: this library is linked to no runtime, and brings none.
struct Libgomp final : OpenMpTeam {
  void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);
  int (*max_threads)();
  int (*thread_num)();
  int (*in_parallel)();
  std::string library;

  void run(void (*part)(void* context, int thread), void* context, int threads) const override;
};

// Never freed, since another thread may be running on it.
std::atomic<const Libgomp*> team{nullptr};

// In a fork the team's threads are gone.
const Libgomp* team_here() { return fork_generation() == 0 ? team.load() : nullptr; }

template <class Function>
bool find(void* library, const char* name, Function& function) {
  reinterpret_cast<void*&>(function) = dlsym(library, name);
  return function != nullptr;
}

// Whether the library's own calls go to libgomp: to what it is linked to, unless something that was preloaded takes
// them. LLVM's and Intel's runtimes have libgomp's entry points too, and a team of other habits behind them.
bool runs_on_libgomp(void* library) {
  const char* name_of_others = "__kmpc_fork_call";
  return dlsym(library, name_of_others) == nullptr && dlsym(RTLD_DEFAULT, name_of_others) == nullptr;
}

// Whether this process is a fork that runs no program of its own. Where its parent has used a team, libgomp waits here
// for the parent's threads, for ever; and whether it has, nobody can tell who was loaded after the fork.
bool is_forked() {
  constexpr unsigned long kForkedWithoutExec = 0x40;  // PF_FORKNOEXEC of Linux
  std::string line, field;
  std::getline(std::ifstream{"/proc/self/stat"}, line);
  std::istringstream fields{line.substr(line.rfind(')') + 1)};  // a program's name may have blanks
  unsigned long flags = 0;
  for (int i = 3; i < 9; ++i) fields >> field;
  fields >> flags;
  return fork_generation() > 0 || (flags & kForkedWithoutExec) != 0;
}

void Libgomp::run(void (*part)(void* context, int thread), void* context, int threads) const {
  struct Region {
    const Libgomp& team;
    void (*part)(void* context, int thread);
    void* context;
    int threads;
  } region{*this, part, context, threads};
  auto run_part = [](void* argument) {
    const Region& r = *static_cast<Region*>(argument);
    const int thread = r.team.thread_num();
    if (thread < r.threads) r.part(r.context, thread);
  };
  // The whole team, though some may have no part: asked for fewer, libgomp would end the others and start them again
  // for the next region of the library.
  parallel(run_part, &region, static_cast<unsigned>(max_threads()), 0);
}

}  // namespace

bool use_openmp_of(const char* library) {
  // A search in the library's handle goes through what it is linked to, and so finds the runtime that it uses. A
  // process may hold several, and packagers rename them.
  void* loaded = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  if (loaded == nullptr) return false;
  Libgomp found;
  if (is_forked() || !runs_on_libgomp(loaded) || !find(loaded, "GOMP_parallel", found.parallel) ||
      !find(loaded, "omp_get_max_threads", found.max_threads) ||
      !find(loaded, "omp_get_thread_num", found.thread_num) || !find(loaded, "omp_in_parallel", found.in_parallel)) {
    dlclose(loaded);
    return false;
  }
  found.library = library;
  team.store(new Libgomp(found));  // `loaded` stays open, and so the runtime loaded
  return true;
}

std::string openmp_library() {
  const Libgomp* t = team_here();
  return t == nullptr ? "" : t->library;
}

const OpenMpTeam* openmp_team(int threads) {
  const Libgomp* t = team_here();
  return t != nullptr && threads <= t->max_threads() && t->in_parallel() == 0 ? t : nullptr;
}

}  // namespace samestep
