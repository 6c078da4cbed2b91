// Timing for the benchmarks: contenders take turns, minimum and median are kept, text or JSON comes out.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace bench {

struct Contender {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;

  double minimum() const { return *std::min_element(seconds.begin(), seconds.end()); }
  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

inline double time_once(const std::function<void()>& run, int repeats) {
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / repeats;
}

// Rounds in which each contender runs for about `seconds`, in turn, so that a slow spell of the machine hits all.
inline void take_turns(std::vector<Contender>& contenders, int rounds, double seconds) {
  std::vector<int> repeats;
  for (Contender& c : contenders) {
    c.run();  // warm-up: pages, caches, threads
    repeats.push_back(std::max(1, static_cast<int>(seconds / std::max(1e-9, time_once(c.run, 1)))));
  }
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      contenders[i].seconds.push_back(time_once(contenders[i].run, repeats[i]));
    }
  }
}

}  // namespace bench
