#include "run/roof.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "contract/types.h"
#include "isa/dispatch.h"
#include "run/fp_mode.h"

namespace samestep {
namespace {

using Clock = std::chrono::steady_clock;

// Where threads wait for each other again and again. They spin, since waking a thread would be measured with the pass;
// on a machine with fewer processors than threads they let others run.
class Barrier {
 public:
  // From now on so many threads are waited for; until this is called, nobody passes.
  void expect(Index threads) { threads_ = threads; }
  Index threads() const { return threads_; }

  // `times`: how often the calling thread has been here before.
  void wait(Index times) {
    constexpr int kSpins = 10000;
    ++arrived_;
    for (int spins = 0; !all_are_here(times); ++spins) {
      if (spins > kSpins) std::this_thread::yield();
    }
  }

 private:
  bool all_are_here(Index times) const {
    const Index threads = threads_;
    return threads > 0 && arrived_ >= threads * (times + 1);
  }

  std::atomic<Index> threads_{0}, arrived_{0};
};

}  // namespace

std::vector<Roof::Way> Roof::ways(int threads) {
  std::vector<Way> out = {{"one thread", true, 0, false}, {"one thread, fetched ahead", true, 0, true}};
  if (threads == 1) return out;
  out.insert(out.end(), {
                            {"equal parts", false, 0, false},
                            {"equal parts, fetched ahead", false, 0, true},
                            {"items of 8 Ki", false, 8192, false},
                            {"items of 8 Ki, fetched ahead", false, 8192, true},
                            {"items of 32 Ki", false, 32768, false},
                            {"items of 32 Ki, fetched ahead", false, 32768, true},
                            {"items of 128 Ki", false, 131072, false},
                            {"items of 128 Ki, fetched ahead", false, 131072, true},
                        });
  return out;
}

Roof::Roof(std::vector<Streams> tensors, int threads) : tensors_(std::move(tensors)), threads_(threads) {
  for (const Streams& streams : tensors_) size_ += streams.size;
}

Roof::Cut Roof::cut(Index item) const {
  Cut out;
  Index room = 0;
  for (Index t = 0; t < static_cast<Index>(tensors_.size()); ++t) {
    for (Index begin = 0; begin < tensors_[t].size;) {
      if (room == 0) {
        out.items.push_back(out.pieces.size());
        room = item;
      }
      const Index end = std::min(begin + room, tensors_[t].size);
      out.pieces.push_back({t, begin, end});
      room -= end - begin;
      begin = end;
    }
  }
  out.items.push_back(out.pieces.size());
  return out;
}

double Roof::seconds(const Way& way, Index passes, float c) const {
  constexpr Index kLine = 64;  // elements: parts end where whole cache lines do, if the array begins at one
  const int wanted = way.one_thread ? 1 : threads_;
  const bool equal_parts = way.item == 0;
  const Cut cut = this->cut(equal_parts ? ceil_div(ceil_div(size_, wanted), kLine) * kLine : way.item);
  const Index items = cut.items.size() - 1;
  const auto kernel = active_isa().roofs[tensors_[0].written.size() - 1].run[way.ahead];

  Barrier barrier;
  std::vector<std::atomic<Index>> next(passes);  // the next item that nobody has claimed
  std::vector<Clock::time_point> begins(wanted), ends(wanted);
  const auto run_item = [&](Index item) {
    for (Index p = cut.items[item]; p < cut.items[item + 1]; ++p) {
      const Piece& piece = cut.pieces[p];
      const Streams& streams = tensors_[piece.tensor];
      kernel(c, streams.g, streams.written.data(), piece.begin, piece.end);
    }
  };
  const auto work = [&](int thread) {
    FpMode mode;
    for (Index pass = 0; pass < passes; ++pass) {
      barrier.wait(pass);
      if (pass == 0) begins[thread] = Clock::now();
      if (equal_parts) {  // each thread its own, in every pass
        for (Index item = thread; item < items; item += barrier.threads()) run_item(item);
      } else {
        for (Index item; (item = next[pass].fetch_add(1, std::memory_order_relaxed)) < items;) run_item(item);
      }
    }
    ends[thread] = Clock::now();
  };

  std::vector<std::thread> helpers;
  helpers.reserve(wanted - 1);
  try {
    while (static_cast<int>(helpers.size()) + 1 < wanted) helpers.emplace_back(work, helpers.size() + 1);
  } catch (const std::system_error&) {  // no more threads: those that there are do the work
  }
  const Index threads = helpers.size() + 1;
  barrier.expect(threads);
  work(0);
  for (std::thread& helper : helpers) helper.join();
  const auto first = *std::min_element(begins.begin(), begins.begin() + threads);
  const auto last = *std::max_element(ends.begin(), ends.begin() + threads);
  return std::chrono::duration<double>(last - first).count() / passes;
}

}  // namespace samestep
