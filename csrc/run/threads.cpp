// The thread pool: started at the first large job, rebuilt in a forked child. Own threads, because OpenMP's hang
// after fork and would bring a second runtime beside the one that other libraries load.
#include "run/threads.h"

#include <pthread.h>
#include <signal.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>

#include "run/fp_mode.h"

namespace samestep {
namespace {

// Items lie in as many runs as threads are wanted. Each thread begins with a run of its own, the same in every job, so
// that what it wrote in the last step is still in its cache. Then it takes from others: all of a run whose thread has
// not come, and of the rest what is plenty. The last few items are left to their thread: taking one would move its data
// to another cache, and the next step back, which makes that thread late again.
class Job {
 public:
  Job(Task task, void* context, Index items, int threads)
      : task_(task), context_(context), n_runs_(threads < kMaxRuns ? threads : kMaxRuns) {
    for (int r = 0; r < n_runs_; ++r) {
      runs_[r].next.store(items * r / n_runs_, std::memory_order_relaxed);
      runs_[r].end = items * (r + 1) / n_runs_;
      runs_[r].has_thread.store(false, std::memory_order_relaxed);
    }
  }

  void take_part(int thread) {
    FpMode mode;
    const int own = thread % n_runs_;
    runs_[own].has_thread.store(true, std::memory_order_relaxed);
    while (take_from(runs_[own])) {
    }
    for (int r = 1; r < n_runs_; ++r) {
      Run& run = runs_[(own + r) % n_runs_];
      while (run.may_be_helped() && take_from(run)) {
      }
    }
  }

 private:
  static constexpr int kMaxRuns = 64;  // more threads share them
  static constexpr Index kFew = 2;     // items

  struct alignas(64) Run {  // on a cache line of its own
    std::atomic<Index> next;
    Index end;
    std::atomic<bool> has_thread;  // that will see it to its end

    bool may_be_helped() const {
      return !has_thread.load(std::memory_order_relaxed) || end - next.load(std::memory_order_relaxed) > kFew;
    }
  };

  bool take_from(Run& run) {
    const Index i = run.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= run.end) return false;
    task_(context_, i);
    return true;
  }

  Task task_;
  void* context_;
  int n_runs_;
  Run runs_[kMaxRuns];  // n_runs_ of them are in use
};

// How long a thread looks for the next job, or for the last helper to finish, before it sleeps: longer than the pause
// between steps that follow each other, and no longer than waking a thread takes.
constexpr std::chrono::microseconds kLook{30};

// A helper's: blocks of sums take 128 KiB, which is all that some systems give a thread.
constexpr std::size_t kStack = std::size_t(1) << 20;

// Blocks all signals in a scope, and so in the threads that are started there: signals go to those that the application
// knows.
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

class HelperAttributes {
 public:
  HelperAttributes() {
    pthread_attr_init(&attributes_);
    pthread_attr_setdetachstate(&attributes_, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes_, kStack);
  }
  ~HelperAttributes() { pthread_attr_destroy(&attributes_); }
  HelperAttributes(const HelperAttributes&) = delete;
  HelperAttributes& operator=(const HelperAttributes&) = delete;

  const pthread_attr_t* get() const { return &attributes_; }

 private:
  pthread_attr_t attributes_;
};

using Clock = std::chrono::steady_clock;

// Looks until there is what it waits for, or for kLook; says which.
template <class Condition>
bool look_for(Condition there) {
  for (const Clock::time_point end = Clock::now() + kLook; Clock::now() < end;) {
    for (int i = 0; i < 16; ++i) {
      if (there()) return true;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  }
  return there();
}

std::atomic<int> wakes_always{0};  // an int: riscv64 has no exchange of a byte

// A job offers seats; helpers that look for one sit down without a system call, those asleep are woken where that pays.
class Pool {
 public:
  void run(Job& job, int helpers, bool worth_waking) {
    const bool is_one_of_many = Clock::now() - last_ < kLook;  // threads woken now will meet the next
    if (is_one_of_many || wakes_always != 0) worth_waking = true;
    if (worth_waking) grow(helpers);
    job_ = &job;
    wanted_ = helpers;
    seats_ = helpers;
    if (worth_waking && sleeping_ > 0) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
    job.take_part(0);
    seats_ = 0;  // who comes from here on finds nothing to do, so nobody has to wait for the late
    auto all_left = [this] { return seated_ == 0; };
    if (!look_for(all_left)) {
      std::unique_lock<std::mutex> lock(mutex_);
      waiting_ = true;
      done_.wait(lock, all_left);
      waiting_ = false;
    }
    last_ = Clock::now();
  }

  std::mutex busy;  // held by the caller whose job runs

 private:
  struct Seat {
    Pool* pool;
    int thread;
  };

  static void* enter(void* given) {
    const Seat seat = *std::unique_ptr<Seat>(static_cast<Seat*>(given));
    seat.pool->work(seat.thread);
    return nullptr;
  }

  // If no more threads or no more memory are to be had, the threads that there are do the work; the bits are the same.
  void grow(int helpers) {
    if (started_ >= helpers) return;
    const NoSignals blocked;
    const HelperAttributes attributes;
    for (pthread_t id; started_ < helpers; ++started_) {
      std::unique_ptr<Seat> seat(new (std::nothrow) Seat{this, started_ + 1});
      if (seat == nullptr || pthread_create(&id, attributes.get(), &Pool::enter, seat.get()) != 0) break;
      seat.release();
    }
  }

  void work(int thread) {
    for (auto offered = [this, thread] { return seats_ > 0 && thread <= wanted_; };;) {
      if (!look_for(offered)) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, offered);
        --sleeping_;
      }
      // Seated before it takes the seat: the caller withdraws the seats before it counts who is seated.
      ++seated_;
      if (take_seat()) job_.load()->take_part(thread);
      if (--seated_ == 0 && waiting_) {
        {
          std::lock_guard<std::mutex> lock(mutex_);
        }
        done_.notify_one();
      }
    }
  }

  bool take_seat() {
    for (int seats = seats_; seats > 0;) {
      if (seats_.compare_exchange_weak(seats, seats - 1)) return true;
    }
    return false;
  }

  // Whoever goes to sleep says so under the mutex and looks once more; whoever changes what is waited for looks for
  // sleepers after it: one of the two sees the other (all of these are sequentially consistent).
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<Job*> job_{nullptr};
  std::atomic<int> wanted_{0};    // helpers 1 .. wanted_ may sit down
  std::atomic<int> seats_{0};     // and so many of them still have to
  std::atomic<int> seated_{0};    // helpers at work
  std::atomic<int> sleeping_{0};  // helpers to be woken
  std::atomic<bool> waiting_{false};
  int started_ = 0;  // this and the next: touched by the busy caller alone
  Clock::time_point last_{};
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

bool wake_always(bool on) { return wakes_always.exchange(on) != 0; }

void run_items(Index items, Task task, void* context, bool worth_waking) {
  const int wanted = static_cast<int>(std::min<Index>(get_num_threads(), items));
  if (wanted > 1) {
    Pool& p = get_pool();
    std::unique_lock<std::mutex> alone(p.busy, std::try_to_lock);
    if (alone) {
      Job job(task, context, items, wanted);
      return p.run(job, wanted - 1, worth_waking);
    }
  }
  FpMode mode;
  for (Index i = 0; i < items; ++i) task(context, i);
}

}  // namespace samestep
