// The pool when memory or threads run out: every item runs once, no exception leaves, the signal mask is as it was
// and blocks all on the pool's own threads.
// Prints what is wrong; exit 1 if anything is.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <thread>

#include "run/threads.h"

namespace {

int memory_left = -1, threads_left = -1;  // how many more there are to be had; -1: as many as there are

bool is_left(int& left) {
  if (left == 0) return false;
  if (left > 0) --left;
  return true;
}

constexpr samestep::Index kItems = 100;

const pthread_t main_thread = pthread_self();
std::atomic<bool> helped{false}, may_handle{false};  // a helper ran an item; a signal could have been handled on it

void run_item(void* context, samestep::Index i) {
  ++static_cast<int*>(context)[i];
  std::this_thread::sleep_for(std::chrono::microseconds(100));  // so that helpers find some left
  if (pthread_equal(pthread_self(), main_thread)) return;
  sigset_t blocked;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  helped = true;
  if (!sigismember(&blocked, SIGTERM)) may_handle = true;
}

bool is_in_order(const char* when, int memory, int threads) {
  sigset_t before, after;
  sigemptyset(&before);
  sigaddset(&before, SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  int ran[kItems] = {};
  bool thrown = false;
  memory_left = memory, threads_left = threads;
  try {
    samestep::run_items(kItems, run_item, ran);
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  memory_left = threads_left = -1;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  bool once = true;
  for (int n : ran) once = once && n == 1;
  bool same = true;
  for (int s = 1; s < 32; ++s) same = same && sigismember(&after, s) == (s == SIGUSR1);
  if (thrown) std::printf("%s: an exception\n", when);
  if (!once) std::printf("%s: not every item ran once\n", when);
  if (!same) std::printf("%s: the signal mask is another\n", when);
  return once && same && !thrown;
}

}  // namespace

void* operator new(std::size_t size) {
  void* memory = is_left(memory_left) ? std::malloc(size) : nullptr;
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

extern "C" int pthread_create(pthread_t* id, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) {
  static const auto create = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return is_left(threads_left) ? create(id, attributes, run, argument) : EAGAIN;
}

int main() {
  samestep::set_num_threads(1);
  samestep::run_items(1, [](void*, samestep::Index) {}, nullptr);
  samestep::set_num_threads(2);
  bool fine = is_in_order("all there is", -1, -1);  // makes the pool itself
  samestep::set_num_threads(4);
  fine = is_in_order("no memory", 0, -1) && fine;
  fine = is_in_order("memory for one thread", 1, -1) && fine;
  fine = is_in_order("no thread", -1, 0) && fine;
  fine = is_in_order("all there is once more", -1, -1) && fine;
  if (!helped) std::printf("no helper ran an item\n");
  if (may_handle) std::printf("a helper handles signals\n");
  return fine && helped && !may_handle ? 0 : 1;
}
