// Linux and macOS, and what else has POSIX threads.
#include <pthread.h>
#include <signal.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <thread>

#include "run/system.h"

namespace samestep {
namespace {

// Blocks all signals in a scope, and so in the threads that are started there.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_;
};

class DetachedAttributes {
 public:
  explicit DetachedAttributes(std::size_t stack_bytes) {
    pthread_attr_init(&attributes_);
    pthread_attr_setdetachstate(&attributes_, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes_, stack_bytes);
  }
  ~DetachedAttributes() { pthread_attr_destroy(&attributes_); }
  DetachedAttributes(const DetachedAttributes&) = delete;
  DetachedAttributes& operator=(const DetachedAttributes&) = delete;

  const pthread_attr_t* get() const { return &attributes_; }

 private:
  pthread_attr_t attributes_;
};

struct Start {
  void (*run)(void* context, int thread);
  void* context;
  int thread;
};

void* run_started(void* argument) {
  const Start start = *std::unique_ptr<Start>(static_cast<Start*>(argument));
  start.run(start.context, start.thread);
  return nullptr;
}

// Processors that one cgroup's quota grants, quota/period rounded up; 0 where it sets none. cpu.max of version 2 reads
// "max 100000" or "150000 100000", in microseconds.
int quota_of(const std::string& folder) {
  long long quota = 0, period = 0;
  if (std::ifstream file{folder + "/cpu.max"}) {
    file >> quota >> period;  // "max" reads as 0
  } else {
    std::ifstream{folder + "/cpu.cfs_quota_us"} >> quota;
    std::ifstream{folder + "/cpu.cfs_period_us"} >> period;
  }
  return quota > 0 && period > 0 ? static_cast<int>((quota + period - 1) / period) : 0;
}

// The smallest quota of this process's cgroup and of those above it; 0 without any, as where there are no cgroups.
int cgroup_quota() {
  int least = 0;
  std::ifstream groups{"/proc/self/cgroup"};  // lines "0::/path", or "4:cpu,cpuacct:/path" in version 1
  for (std::string line; std::getline(groups, line);) {
    std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string kinds = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (!kinds.empty() && ("," + kinds + ",").find(",cpu,") == std::string::npos) continue;
    const std::string root = kinds.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (;;) {
      int quota = quota_of(root + path);
      if (quota > 0 && (least == 0 || quota < least)) least = quota;
      std::size_t slash = path.rfind('/');
      if (path.empty() || slash == std::string::npos) break;
      path.resize(slash);
    }
  }
  return least;
}

}  // namespace

bool start_detached(void (*run)(void*, int), void* context, int thread, std::size_t stack_bytes) {
  const NoSignals blocked;
  const DetachedAttributes attributes(stack_bytes);
  std::unique_ptr<Start> start(new (std::nothrow) Start{run, context, thread});
  pthread_t id;
  if (start == nullptr || pthread_create(&id, attributes.get(), run_started, start.get()) != 0) return false;
  start.release();
  return true;
}

bool call_in_forked_child(void (*function)()) { return pthread_atfork(nullptr, nullptr, function) == 0; }

int granted_processors() {
  int n = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) n = CPU_COUNT(&mask);
#endif
  int quota = cgroup_quota();
  if (quota > 0 && quota < n) n = quota;
  return n > 0 ? n : 1;
}

}  // namespace samestep
