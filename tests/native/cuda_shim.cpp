// The threads of a grid on the host. Those of a block are fibers that give way at barriers and shuffles. Blocks run one
// after the other, unless they give way: in __nanosleep(), with which one waits for others, and in a random order after
// atomic additions, with which it tells them. Then kPlaces blocks take turns. Threads or blocks that wait for one
// another for ever end the program.
//
// Two faults that a GPU may or may not show are found here. set_order(seed) runs blocks, and the threads of each, in a
// random order. And every access to shared memory is checked: cuda_on_host.cpp is compiled with -fsanitize=thread,
// which makes the compiler call __tsan_read4(address) and the like before each access; these functions are here, in the
// place of the sanitizer's library, which knows no fibers.
#include "cuda_shim.h"

#include <link.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace samestep {
alignas(16) extern thread_local unsigned char launched_memory[];
alignas(16) thread_local unsigned char launched_memory[227 << 10];  // what a block of an H100 or H200 can have
}  // namespace samestep

namespace shim {
namespace {

std::mt19937_64 random_order;
bool in_order = true;

// ---- shared memory ----

// Where it lies for this thread of the host: all thread_local variables of this library, in one piece.
struct Memory {
  char* begin = nullptr;
  std::size_t size = 0;
};
thread_local char marker = 0;

Memory find_shared() {
  Memory found;
  const auto visit = [](dl_phdr_info* library, std::size_t, void* to) {
    std::size_t size = 0;
    for (int i = 0; i < library->dlpi_phnum; ++i) {
      if (library->dlpi_phdr[i].p_type == PT_TLS) size = library->dlpi_phdr[i].p_memsz;
    }
    char* const begin = static_cast<char*>(library->dlpi_tls_data);
    if (begin == nullptr || &marker < begin || &marker >= begin + size) return 0;
    *static_cast<Memory*>(to) = {begin, size};
    return 1;
  };
  dl_iterate_phdr(visit, &found);
  return found;
}

// What it holds at the begin of every block, none of which may rely on what another left.
constexpr int kNothing = 0xAA;

// Who accessed a word last. An epoch ends where a block ends or all its threads have met at a barrier; only then is
// what one thread did before what another does. Shuffles order no memory (CUDA C++ Programming Guide, "Warp Shuffle
// Functions").
using Epoch = std::uint64_t;
constexpr unsigned kSeveral = ~0u;
struct Word {
  Epoch written = 0, read = 0;
  unsigned writer = 0, reader = 0;  // kSeveral threads may have read in one epoch
};
constexpr std::size_t kWordBytes = 2;  // the smallest number that a kernel stores

// The shared memory of one block.
class Shared {
 public:
  static void begin_grid(const char* name, std::size_t bytes) {
    kernel = name, launched = bytes;
    if (&marker == marker_) return;
    marker_ = &marker;
    memory_ = find_shared();
    std::memset(memory_.begin, kNothing, memory_.size);
  }
  void begin_block() {
    words_.resize(memory_.size / kWordBytes + 1);
    kept_.clear();
    first_ = memory_.size, last_ = 0;
    first_epoch_ = ++epoch_;
  }
  void end_epoch() { ++epoch_; }
  void begin_turn() { std::copy(kept_.begin(), kept_.end(), memory_.begin + first_); }
  void end_turn(bool is_last) {
    if (first_ >= last_) return;
    if (!is_last) kept_.assign(memory_.begin + first_, memory_.begin + last_);
    std::memset(memory_.begin + first_, kNothing, last_ - first_);
  }

  void access(const void* address, std::size_t size, bool writes) {
    const std::size_t offset = static_cast<const char*>(address) - memory_.begin;
    first_ = std::min(first_, offset), last_ = std::max(last_, offset + size);
    const std::size_t of_launch = static_cast<const unsigned char*>(address) - samestep::launched_memory;
    if (of_launch < sizeof(samestep::launched_memory) && of_launch + size > launched) {
      say(offset / kWordBytes, "the launch names fewer bytes");
    }
    const unsigned me = threadIdx.x;
    for (std::size_t w = offset / kWordBytes; w * kWordBytes < offset + size; ++w) {
      Word& word = words_[w];
      if (word.written == epoch_ && word.writer != me) report(w, word.writer, writes ? "both write" : "one writes");
      if (writes) {
        if (word.read == epoch_ && word.reader != me) report(w, word.reader, "one writes");
        word.written = epoch_, word.writer = me;
      } else {
        if (word.written < first_epoch_) report(w);
        word.reader = word.read == epoch_ && word.reader != me ? kSeveral : me;
        word.read = epoch_;
      }
    }
  }

  static bool holds(const void* address) {
    return static_cast<std::size_t>(static_cast<const char*>(address) - memory_.begin) < memory_.size;
  }

  inline static std::size_t launched = 0;   // bytes that the launch names
  inline static std::string kernel, fault;  // of the launch; the first one

 private:
  void report(std::size_t word, unsigned other, const char* how) {
    say(word, (other == kSeveral ? "several threads" : "thread " + std::to_string(other)) +
                  " had it without a barrier between, and " + how);
  }
  void report(std::size_t word) { say(word, "nobody wrote it in this block"); }
  void say(std::size_t word, const std::string& what) {
    if (!fault.empty()) return;
    fault = kernel + ": thread " + std::to_string(threadIdx.x) + " of block " + std::to_string(blockIdx.x) +
            " accesses byte " + std::to_string(word * kWordBytes) + " of shared memory: " + what;
  }

  inline static const char* marker_ = nullptr;
  inline static Memory memory_;
  std::vector<Word> words_;
  std::size_t first_ = 0, last_ = 0;  // bytes that the block may have touched
  std::vector<char> kept_;            // these, while other blocks have their turns
  Epoch epoch_ = 0, first_epoch_ = 0;
};

// ---- threads ----

constexpr std::size_t kStack = 64 << 10;

struct Barrier {
  unsigned arrived = 0, generation = 0;
};

// _setjmp and _longjmp switch without a system call; swapcontext makes two, and is needed on the way in alone.
struct Fiber {
  ucontext_t context;
  jmp_buf here;
  std::unique_ptr<char[]> stack{new char[kStack]};
  unsigned thread = 0, generation = 0;
  const Barrier* waits = nullptr;  // until its generation is another one
};

// A fiber takes thread after thread; only where one waits does the next thread need a fiber of its own.
class Block {
 public:
  void begin(unsigned number, Kernel kernel, const void* arguments) {
    number_ = number, kernel_ = kernel, arguments_ = arguments;
    line_up();
    next_ = 0, used_ = 0;
    block_ = Barrier{};
    warps_.assign((blockDim.x + 31) / 32, Warp{});
    shared.begin_block();
  }

  // Runs the threads until none can go on before another block does; returns whether all have ended.
  bool take_turn() {
    running = this;
    blockIdx = {number_, 0, 0};
    others_ = Barrier{0, others_.generation + 1};
    stops_ = false;
    shared.begin_turn();
    const bool ended = run();
    shared.end_turn(ended);
    running = nullptr;
    return ended;
  }

  void wait_for_block() { wait(block_, blockDim.x); }
  // Until the next turn. at_once: this one ends before other threads of the block go on.
  void wait_for_others(bool at_once) {
    stops_ = at_once;
    wait(others_, ~0u);
  }

  unsigned long long shuffle(unsigned long long value, unsigned from) {
    const unsigned thread = current_->thread;
    Warp& warp = warps_[thread / 32];
    warp.values[thread % 32] = value;
    wait(warp.barrier, 32);
    if (from < 32) value = warp.values[from];
    wait(warp.barrier, 32);
    return value;
  }

  inline static Block* running = nullptr;
  Shared shared;

 private:
  struct Warp {
    Barrier barrier;
    unsigned long long values[32];
  };

  bool run() {
    for (;;) {
      // In a random order: half of the warps go on in each round, from a random thread on; and a warp may start later.
      const std::uint64_t warps = in_order ? ~0ull : random_order(), from = in_order ? 0 : random_order();
      bool alive = next_ < blockDim.x, held = false, progress = false;
      for (std::size_t i = 0; i < used_; ++i) {
        Fiber& fiber = *fibers_[(from + i) % used_];
        if (fiber.waits == nullptr) continue;
        alive = true;
        if (fiber.waits->generation == fiber.generation) continue;
        if (warps >> fiber.thread / 32 % 64 & 1) {
          resume(fiber), progress = true;
          if (stops_) return false;
        } else {
          held = true;
        }
      }
      while (next_ < blockDim.x) {
        if (!in_order && next_ % 32 == 0 && random_order() & 1) {
          held = true;
          break;
        }
        if (used_ == fibers_.size()) fibers_.push_back(std::make_unique<Fiber>());
        start(*fibers_[used_++]), progress = true;
        if (stops_) return false;
      }
      if (!alive) return true;
      if (held || progress) continue;
      if (others_.arrived > 0) return false;
      std::fprintf(stderr, "a barrier that not all threads reach\n"), std::abort();
    }
  }

  // The order in which threads start: warp after warp.
  void line_up() {
    threads_.resize(blockDim.x);
    std::iota(threads_.begin(), threads_.end(), 0u);
    if (in_order) return;
    for (unsigned left = blockDim.x / 32; left > 1; --left) {
      const auto other = threads_.begin() + random_order() % left * 32, last = threads_.begin() + (left - 1) * 32;
      if (other != last) std::swap_ranges(last, last + 32, other);
    }
    for (unsigned first = 0; first + 32 <= blockDim.x; first += 32) {
      std::shuffle(threads_.begin() + first, threads_.begin() + first + 32, random_order);
    }
  }

  void wait(Barrier& barrier, unsigned expected) {
    if (++barrier.arrived == expected) {
      barrier.arrived = 0;
      ++barrier.generation;
      if (&barrier == &block_) shared.end_epoch();
      return;
    }
    Fiber& me = *current_;
    me.waits = &barrier, me.generation = barrier.generation;
    if (_setjmp(me.here) == 0) _longjmp(scheduler_here_, 1);
    me.waits = nullptr;
  }

  void start(Fiber& fiber) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, [] { running->work(); }, 0);
    fiber.waits = nullptr;
    current_ = &fiber;
    if (_setjmp(scheduler_here_) == 0) setcontext(&fiber.context);
  }

  void resume(Fiber& fiber) {
    current_ = &fiber;
    threadIdx.x = fiber.thread;
    if (_setjmp(scheduler_here_) == 0) _longjmp(fiber.here, 1);
  }

  void work() {
    Fiber& me = *current_;
    while (next_ < blockDim.x) {
      threadIdx.x = me.thread = threads_[next_++];
      kernel_(arguments_);
    }
    _longjmp(scheduler_here_, 1);
  }

  unsigned number_ = 0;
  Kernel kernel_ = nullptr;
  const void* arguments_ = nullptr;
  std::vector<unsigned> threads_;  // in the order in which they start
  unsigned next_ = 0;
  Barrier block_, others_;  // of all threads; of those that wait for other blocks, which the next turn opens
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::size_t used_ = 0;  // of the fibers
  bool stops_ = false;    // this turn
  Fiber* current_ = nullptr;
  jmp_buf scheduler_here_;
};

constexpr std::size_t kPlaces = 4;      // blocks that run at the same time
constexpr std::size_t kTurns = 100000;  // after which blocks of which none ends have waited for ever

template <class T>
T add(T* to, T by) {  // a race with no other one
  const T before = *to;
  *to += by;
  if (!in_order && random_order() & 1) Block::running->wait_for_others(true);
  return before;
}

}  // namespace

void run_grid(const char* name, Kernel kernel, const void* arguments, unsigned shared_bytes) {
  if (shared_bytes > sizeof(samestep::launched_memory)) std::fprintf(stderr, "no such memory\n"), std::abort();
  Shared::begin_grid(name, shared_bytes);
  std::vector<unsigned> blocks(gridDim.x);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (!in_order) std::shuffle(blocks.begin(), blocks.end(), random_order);

  // The first `running` places hold blocks that have begun. One begins where there is room, or one of them goes on: in
  // order they take turns.
  static std::array<Block, kPlaces> all;
  std::array<Block*, kPlaces> places;
  std::transform(all.begin(), all.end(), places.begin(), [](Block& block) { return &block; });
  std::size_t running = 0, turns = 0;
  for (auto next = blocks.begin(); next != blocks.end() || running > 0; ++turns) {
    std::size_t place = running;
    if (next == blocks.end() || running == kPlaces || (!in_order && running > 0 && random_order() & 1)) {
      place = (in_order ? turns : random_order()) % running;
    } else {
      places[running++]->begin(*next++, kernel, arguments);
    }
    if (places[place]->take_turn()) {
      std::swap(places[place], places[--running]);
      turns = 0;
    } else if (turns == kTurns) {
      std::fprintf(stderr, "blocks that wait for one another\n"), std::abort();
    }
  }
}

unsigned long long shuffle(unsigned long long value, unsigned from) { return Block::running->shuffle(value, from); }

}  // namespace shim

void __syncthreads() { shim::Block::running->wait_for_block(); }
void __nanosleep(unsigned) { shim::Block::running->wait_for_others(false); }
unsigned long long atomicAdd(unsigned long long* to, unsigned long long by) { return shim::add(to, by); }
unsigned atomicAdd(unsigned* to, unsigned by) { return shim::add(to, by); }

// Blocks and threads run in a random order from now on; 0: as they are numbered.
EXPORT void set_order(unsigned long long seed) {
  shim::in_order = seed == 0;
  shim::random_order.seed(seed);
}

// The first fault since the last call; nullptr: there was none. It lives until the next one.
EXPORT const char* shared_memory_fault() {
  static std::string last;
  last.swap(shim::Shared::fault);
  shim::Shared::fault.clear();
  return last.empty() ? nullptr : last.c_str();
}

// ---- what -fsanitize=thread calls ----

namespace {
void access(const void* at, std::size_t size, bool writes) {
  if (shim::Block::running != nullptr && shim::Shared::holds(at)) shim::Block::running->shared.access(at, size, writes);
}
}  // namespace

#define ACCESS(size)                                                       \
  extern "C" void __tsan_read##size(void* at) { access(at, size, false); } \
  extern "C" void __tsan_write##size(void* at) { access(at, size, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
extern "C" void __tsan_read_range(void* at, unsigned long size) { access(at, size, false); }
extern "C" void __tsan_write_range(void* at, unsigned long size) { access(at, size, true); }
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit(void*) {}
