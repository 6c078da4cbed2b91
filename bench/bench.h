// Timing for the benchmarks: contenders take turns, minimum and median are kept, text and JSON come out.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace bench {

struct Contender {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;
  std::function<double(int repeats)> clock = nullptr;  // set: measures itself, in place of run(); returns seconds

  double minimum() const { return *std::min_element(seconds.begin(), seconds.end()); }
  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

inline double time_once(const Contender& c, int repeats) {
  if (c.clock) return c.clock(repeats);
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) c.run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / repeats;
}

// Puts memory out of all caches. Without a way to say so: by filling them with something else.
inline void evict(const void* memory, std::size_t bytes) {
#if defined(__x86_64__) || defined(__i386__)
  for (std::size_t i = 0; i < bytes; i += 64) _mm_clflush(static_cast<const char*>(memory) + i);
  _mm_mfence();
#else
  (void)memory, (void)bytes;
  static std::vector<char> other(std::size_t(256) << 20);
  for (std::size_t i = 0; i < other.size(); i += 64) ++other[i];
#endif
}

// Rounds in which each contender runs for about `seconds`, in turn, so that a slow spell of the machine hits all.
// With `chill`: that is called before each single run, which is timed by itself.
inline void take_turns(std::vector<Contender>& contenders, int rounds, double seconds,
                       const std::function<void()>& chill = nullptr) {
  std::vector<int> repeats;
  for (Contender& c : contenders) {
    time_once(c, 1);  // warm-up: pages, caches, threads
    repeats.push_back(std::max(1, static_cast<int>(seconds / std::max(1e-9, time_once(c, 1)))));
  }
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      if (chill) {
        chill();
        contenders[i].seconds.push_back(time_once(contenders[i], 1));
      } else {
        time_once(contenders[i], 1);
        contenders[i].seconds.push_back(time_once(contenders[i], repeats[i]));
      }
    }
  }
}

// --quick, --cold, --threads N, --json FILE
struct Options {
  bool quick = false, cold = false;
  int threads = 1;
  std::string json;

  Options(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      const bool has_value = i + 1 < argc;
      if (std::strcmp(argv[i], "--quick") == 0) {
        quick = true;
      } else if (std::strcmp(argv[i], "--cold") == 0) {
        cold = true;
      } else if (std::strcmp(argv[i], "--threads") == 0 && has_value) {
        threads = std::atoi(argv[++i]);
      } else if (std::strcmp(argv[i], "--json") == 0 && has_value) {
        json = argv[++i];
      } else {
        std::fprintf(stderr, "usage: %s [--quick] [--cold] [--threads N] [--json FILE]\n", argv[0]);
        std::exit(2);
      }
    }
  }

  int rounds() const { return quick ? 2 : 40; }
  double seconds() const { return quick ? 1e-5 : 1e-3; }  // of a contender in a round
};

// A table as it is made, and the same as JSON at the end.
class Table {
 public:
  Table(const Options& options, const char* isa) : options_(options), isa_(isa) {
    std::printf("%s, %d thread%s, %s caches\n", isa, options.threads, options.threads == 1 ? "" : "s",
                options.cold ? "cold" : "warm");
    std::printf("%-34s %10s %11s %11s %8s %8s\n", "kernel", "elements", "minimum us", "median us", "GB/s", "of roof");
  }

  // bytes: what a run moves. roof: the same streams with almost no arithmetic; nullptr: none.
  void add(const Contender& c, long long elements, double bytes, const Contender* roof) {
    char share[16] = "", json[32] = "null";
    if (roof != nullptr) {
      const double of_roof = roof->minimum() / c.minimum();
      std::snprintf(share, sizeof(share), "%.2f", of_roof);
      std::snprintf(json, sizeof(json), "%.4f", of_roof);
    }
    const double gb = bytes / c.minimum() / 1e9;
    std::printf("%-34s %10lld %11.2f %11.2f %8.1f %8s\n", c.name.c_str(), elements, 1e6 * c.minimum(), 1e6 * c.median(),
                gb, share);
    std::fflush(stdout);
    char row[512];
    std::snprintf(row, sizeof(row),
                  "  {\"kernel\": \"%s\", \"elements\": %lld, \"min_us\": %.4f, \"median_us\": %.4f, "
                  "\"gb_per_s\": %.3f, \"share_of_roof\": %s}",
                  c.name.c_str(), elements, 1e6 * c.minimum(), 1e6 * c.median(), gb, json);
    rows_ += (rows_.empty() ? "" : ",\n") + std::string(row);
  }

  void save() const {
    if (options_.json.empty()) return;
    std::FILE* file = std::fopen(options_.json.c_str(), "w");
    if (file == nullptr) {
      std::perror(options_.json.c_str());
      std::exit(1);
    }
    std::fprintf(file, "{\"isa\": \"%s\", \"threads\": %d, \"cold\": %s, \"rows\": [\n%s\n]}\n", isa_.c_str(),
                 options_.threads, options_.cold ? "true" : "false", rows_.c_str());
    std::fclose(file);
  }

 private:
  Options options_;
  std::string isa_, rows_;
};

}  // namespace bench
