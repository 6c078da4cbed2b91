// The thread pool: started at the first large job, rebuilt in a forked child. Own threads, because OpenMP's hang
// after fork and would bring a second runtime beside the one that other libraries load.
#include "threads.h"

#include <pthread.h>
#include <signal.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <atomic>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>

#include "fp_mode.h"

namespace samestep {
namespace {

struct Job {
  Task task;
  void* context;
  Index items;
  std::atomic<Index> next{0};

  void take_part() {
    FpMode mode;
    for (Index i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items;) task(context, i);
  }
};

class Pool {
 public:
  void run(Job& job, int helpers) {
    grow(helpers);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      seats_ = helpers;
    }
    wake_.notify_all();
    job.take_part();
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;  // who wakes from here on finds nothing to do, so nobody has to wait for the late
    done_.wait(lock, [this] { return seated_ == 0; });
  }

  std::mutex busy;  // held by the caller whose job runs

 private:
  void grow(int helpers) {
    // Signals go to the threads that the application knows.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (; started_ < helpers; ++started_) std::thread([this] { work(); }).detach();
    } catch (const std::exception&) {
      // No more threads to be had: those that there are do the work, the bits are the same.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return job_ != nullptr && seats_ > 0; });
      Job* job = job_;
      --seats_;
      ++seated_;
      lock.unlock();
      job->take_part();
      lock.lock();
      if (--seated_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;  // this and the counts below: under mutex_
  int seats_ = 0;       // helpers still wanted
  int seated_ = 0;      // helpers at work
  int started_ = 0;     // touched by the busy caller alone
};

// Never destroyed: its threads may outlive main. In a forked child they are gone and the mutexes may be held by
// nobody, so the child leaves the parent's pool where it is and makes its own.
std::atomic<Pool*> pool{nullptr};

std::atomic<int> generation{0};
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  pool.store(nullptr);
  ++generation;
});

Pool& get_pool() {
  Pool* p = pool.load();
  if (p == nullptr) {
    Pool* fresh = new Pool;
    if (pool.compare_exchange_strong(p, fresh)) return *fresh;
    delete fresh;
  }
  return *p;
}

// Processors that one cgroup's quota grants, 0 where it sets none. Version 2: "max 100000" or "150000 100000".
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

// The least that the quotas of this process's cgroup and of those above it grant, 0 without any.
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

std::atomic<int> threads{0};  // 0: not set yet

}  // namespace

int default_num_threads() {
  int n = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) n = CPU_COUNT(&mask);
#endif
  int quota = cgroup_quota();
  if (quota > 0 && quota < n) n = quota;
  return n > 0 ? n : 1;
}

int fork_generation() { return generation.load(std::memory_order_relaxed); }

int get_num_threads() {
  int n = threads.load(std::memory_order_relaxed);
  if (n == 0) threads.store(n = default_num_threads(), std::memory_order_relaxed);
  return n;
}

void set_num_threads(int n) { threads.store(n < 1 ? 1 : n, std::memory_order_relaxed); }

void run_items(Index items, Task task, void* context) {
  Job job{task, context, items};
  Index helpers = get_num_threads() - 1;
  if (helpers > items - 1) helpers = items - 1;
  if (helpers < 1) return job.take_part();
  Pool& p = get_pool();
  std::unique_lock<std::mutex> alone(p.busy, std::try_to_lock);
  if (!alone) return job.take_part();
  p.run(job, static_cast<int>(helpers));
}

}  // namespace samestep
