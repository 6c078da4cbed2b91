// The team of threads of an OpenMP runtime that another library has loaded, for jobs of this one.
//
// After a parallel region a runtime's threads spin for milliseconds, in case another one follows. On a machine without
// processors to spare, threads of a second pool would share theirs with those, and whoever waits for them waits for the
// system to put the spinning thread aside. So what runs between that library's regions runs on its team.
#pragma once

#include <string>

namespace samestep {

class OpenMpTeam {
 public:
  // Calls part(context, thread) on threads 0 .. threads-1 of the team, of which the caller is 0, and returns when all
  // are done.
  virtual void run(void (*part)(void* context, int thread), void* context, int threads) const = 0;

 protected:
  ~OpenMpTeam() = default;  // never destroyed
};

// From now on jobs may go to the team of the runtime that this library, by its file's name, is linked to. False: it is
// not loaded, its runtime is not libgomp, as everywhere but on Linux, or this is a forked child; then nothing changes.
bool use_openmp_of(const char* library);

// That library; empty where this process has no team, and the pool's own threads do all work.
std::string openmp_library();

// The team for a job of so many threads; null where there is none: inside a parallel region, in a forked child, where
// its threads are gone, or where it is smaller.
const OpenMpTeam* openmp_team(int threads);

}  // namespace samestep
