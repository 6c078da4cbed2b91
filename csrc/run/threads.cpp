// The thread pool: started at the first large job, rebuilt in a forked child. Own threads, because OpenMP's hang
// after fork and would bring a second runtime beside the one that other libraries load.
#include "run/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "run/fp_mode.h"
#include "run/openmp.h"
#include "run/system.h"

namespace samestep {
namespace {

// Items are split into as many runs as threads are wanted. Each thread works through a run of its own, the same in
// every job, so that what it wrote in the last step is still in its cache. Then it steals: everything from a run that
// no thread has claimed, and from claimed runs while more than kLeftToOwner items remain. The last few stay with their
// owner: stealing one moves its data to another core's cache, and the owner would have to fetch it back in the next
// step.
class Job {
 public:
  Job(Task task, void* context, Index items, int threads)
      : task_(task), context_(context), n_runs_(threads < kMaxRuns ? threads : kMaxRuns) {
    for (int r = 0; r < n_runs_; ++r) {
      runs_[r].next.store(items * r / n_runs_, std::memory_order_relaxed);
      runs_[r].end = items * (r + 1) / n_runs_;
      runs_[r].is_claimed.store(false, std::memory_order_relaxed);
    }
  }

  // Runs items on this thread, its own and stolen ones, until there are none left for it.
  void work(int thread) {
    FpMode mode;
    const int own = thread % n_runs_;
    runs_[own].is_claimed.store(true, std::memory_order_relaxed);
    while (run_next_item(runs_[own])) {
    }
    for (int r = 1; r < n_runs_; ++r) {
      Run& run = runs_[(own + r) % n_runs_];
      while (run.may_be_stolen_from() && run_next_item(run)) {
      }
    }
  }

 private:
  static constexpr int kMaxRuns = 64;       // more threads share them
  static constexpr Index kLeftToOwner = 2;  // items

  struct alignas(64) Run {  // on a cache line of its own
    std::atomic<Index> next;
    Index end;
    std::atomic<bool> is_claimed;  // by its owner, who will run the items that nobody steals

    bool may_be_stolen_from() const {
      return !is_claimed.load(std::memory_order_relaxed) || end - next.load(std::memory_order_relaxed) > kLeftToOwner;
    }
  };

  // False: the run has no more items. `next` may pass `end`, once for each thread that looks.
  bool run_next_item(Run& run) {
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

// How long a thread spins, waiting for the next job or for the last helper to finish, before it sleeps: longer than the
// pause between steps that follow each other, and no longer than waking a thread takes.
constexpr std::chrono::microseconds kSpinTime{30};

// Of a helper. The lanes of a block of sums are 128 KiB, which is all the stack that some systems give a thread.
constexpr std::size_t kStackBytes = std::size_t(1) << 20;

using Clock = std::chrono::steady_clock;

// Waits until the condition holds, at most for kSpinTime; returns whether it holds. Reads the clock every 16 looks,
// since that costs as much as several of them.
template <class Condition>
bool spin_until(Condition holds) {
  for (const Clock::time_point end = Clock::now() + kSpinTime; Clock::now() < end;) {
    for (int i = 0; i < 16; ++i) {
      if (holds()) return true;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  }
  return holds();
}

std::atomic<int> wakes_always{0};  // an int: riscv64 has no exchange of a byte

// The caller offers its job to helpers 1 .. wanted_, with one seat for each. Helpers that are spinning claim a seat
// without a system call; those asleep are woken where that pays. A seat is a right to work on the job; a helper without
// one does not touch it, for it may be gone.
class Pool {
 public:
  void run(Job& job, int helpers, bool worth_waking) {
    const bool is_one_of_many = Clock::now() - last_end_ < kSpinTime;  // threads woken late will find the next job
    if (is_one_of_many || wakes_always != 0) worth_waking = true;
    if (const OpenMpTeam* team = openmp_team(helpers + 1)) {
      if (worth_waking) {
        team->run([](void* work, int thread) { static_cast<Job*>(work)->work(thread); }, &job, helpers + 1);
      } else {
        job.work(0);
      }
      last_end_ = Clock::now();
      return;
    }
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
    job.work(0);
    seats_ = 0;  // nothing is left for a helper that comes late: it finds no seat and is not waited for
    auto all_finished = [this] { return working_ == 0; };
    if (!spin_until(all_finished)) {
      std::unique_lock<std::mutex> lock(mutex_);
      caller_sleeps_ = true;
      done_.wait(lock, all_finished);
      caller_sleeps_ = false;
    }
    last_end_ = Clock::now();
  }

  std::mutex busy;  // held by the caller whose job runs

 private:
  // Starts helpers up to so many. Where the system refuses one, fewer do the work; the bits are the same.
  void grow(int helpers) {
    auto serve = [](void* pool, int thread) { static_cast<Pool*>(pool)->serve_jobs(thread); };
    while (started_ < helpers && start_detached(serve, this, started_ + 1, kStackBytes)) ++started_;
  }

  // What a helper does for ever.
  void serve_jobs(int thread) {
    for (auto has_seat = [this, thread] { return seats_ > 0 && thread <= wanted_; };;) {
      if (!spin_until(has_seat)) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wake_.wait(lock, has_seat);
        --sleeping_;
      }
      // Counted before it claims a seat: the caller withdraws the seats before it reads the count, so that whoever got
      // a seat is waited for.
      ++working_;
      if (claim_seat()) job_.load()->work(thread);
      if (--working_ == 0 && caller_sleeps_) {
        {
          std::lock_guard<std::mutex> lock(mutex_);
        }
        done_.notify_one();
      }
    }
  }

  bool claim_seat() {
    for (int seats = seats_; seats > 0;) {
      if (seats_.compare_exchange_weak(seats, seats - 1)) return true;
    }
    return false;
  }

  // No wake-up is lost. A thread that goes to sleep first counts itself as sleeping, under the mutex, then reads the
  // condition once more; the thread that changes the condition reads the sleeping count afterwards. These accesses are
  // sequentially consistent, so at least one of the two sees what the other wrote.
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<Job*> job_{nullptr};
  std::atomic<int> wanted_{0};    // helpers 1 .. wanted_ may claim a seat
  std::atomic<int> seats_{0};     // not claimed yet
  std::atomic<int> working_{0};   // helpers that work on the job, or are about to claim a seat
  std::atomic<int> sleeping_{0};  // helpers to be woken
  std::atomic<bool> caller_sleeps_{false};
  int started_ = 0;               // helpers. Only the caller that holds `busy` touches this and the next
  Clock::time_point last_end_{};  // of the last job
};

// Never destroyed: its threads may outlive main. In a forked child they are gone, and a mutex may stay locked for ever
// by one of them; so the child leaves the parent's pool in memory and starts its own.
std::atomic<Pool*> pool{nullptr};

std::atomic<int> generation{0};  // forks since the library was loaded
[[maybe_unused]] const bool is_told = call_in_forked_child([] {
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

std::atomic<int> threads{0};  // 0: not set yet

}  // namespace

int fork_generation() { return generation.load(std::memory_order_relaxed); }

int get_num_threads() {
  int n = threads.load(std::memory_order_relaxed);
  if (n != 0) return n;
  const int found = granted_processors();
  return threads.compare_exchange_strong(n, found) ? found : n;  // set by another thread in the meantime
}

void set_num_threads(int n) { threads.store(n < 1 ? 1 : n, std::memory_order_relaxed); }

bool wake_always(bool on) { return wakes_always.exchange(on) != 0; }

void run_items(Index items, Task task, void* context, bool worth_waking, int most_threads) {
  const int wanted = static_cast<int>(std::min<Index>(std::min(get_num_threads(), most_threads), items));
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
