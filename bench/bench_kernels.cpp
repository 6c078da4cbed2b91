// Every kernel without Python: rules in all forms, sums, batch norm and the mean squared error, in cache and from
// memory. GB/s counts each byte that must move once; the roof (run/roof.h) moves as many streams, in the same turns.
// Options: bench.h.
#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench.h"
#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/mse_problem.h"
#include "run/plan.h"
#include "run/roof.h"
#include "run/threads.h"

namespace {

using namespace samestep;

std::vector<float> values_of(Index n) {
  std::vector<float> x(n);
  for (Index i = 0; i < n; ++i) x[i] = static_cast<float>(37 * i % 101 - 50) / 64;
  return x;
}

using Arrays = std::vector<std::vector<float>>;

// A step of one tensor through a plan: row of the table; arrays w, g, states.
class Step {
 public:
  Step(int row, Arrays& arrays) {
    Tensor tensor{float32, static_cast<Index>(arrays[0].size()), arrays[0].data(), {}, arrays[1].data()};
    for (size_t s = 2; s < arrays.size(); ++s) tensor.states[s - 2] = arrays[s].data();
    plan_ = std::make_unique<Plan>(row, std::vector<Tensor>{tensor}, steps_);
  }
  void operator()() { plan_->step(hyper_); }

 private:
  Index steps_[2] = {10, 10};
  const double hyper_[kMaxHyper] = {1e-3, 0.9, 0.9, 1e-8};
  std::unique_ptr<Plan> plan_;
};

class Bench {
 public:
  explicit Bench(const bench::Options& options) : options_(options), table_(options, active_isa().name) {}

  // Times a kernel that reads and writes `arrays` beside a roof over n elements and so many states.
  void time(const std::string& name, Index elements, double bytes, const Arrays& arrays,
            const std::function<void()>& run, Index roof_elements, int roof_states) {
    Arrays zeros(2 + roof_states, std::vector<float>(roof_elements));
    Roof::Streams streams{zeros[0].data(), {}, roof_elements};
    for (size_t s = 1; s < zeros.size(); ++s) streams.written.push_back(zeros[s].data());
    const Roof roof({streams}, options_.threads);
    std::vector<bench::Contender> turns = {{name, run, {}}};
    for (const Roof::Way& way : Roof::ways(options_.threads)) {
      turns.push_back({way.name, nullptr, {}, [&roof, way](int passes) { return roof.seconds(way, passes, 0.0f); }});
    }
    const auto chill = [&] {
      for (const Arrays* some : {&arrays, const_cast<const Arrays*>(&zeros)}) {
        for (const std::vector<float>& a : *some) bench::evict(a.data(), a.size() * sizeof(float));
      }
    };
    bench::take_turns(turns, options_.rounds(), options_.seconds(),
                      options_.cold ? std::function<void()>(chill) : nullptr);
    const auto best = std::min_element(turns.begin() + 1, turns.end(),
                                       [](const auto& a, const auto& b) { return a.minimum() < b.minimum(); });
    table_.add(turns[0], elements, bytes, &*best);
  }

  // A job that moves `bytes`, whichever way, beside the roof that moves as many: two reads to a write.
  void time(const std::string& name, Index elements, double bytes, const Arrays& arrays,
            const std::function<void()>& run) {
    time(name, elements, bytes, arrays, run, static_cast<Index>(bytes / 12), 0);
  }

  void rules(Index n) {
    for (int row = 0; row < active_isa().n_rules; ++row) {
      const Rule& rule = active_isa().rules[row];
      Arrays arrays(2 + rule.n_states, std::vector<float>(n));
      arrays[0] = arrays[1] = values_of(n);
      Step step(row, arrays);
      time(rule.name, n, 4.0 * n * (3 + 2 * rule.n_states), arrays, [&] { step(); }, n, rule.n_states);
    }
  }

  void sums(Index n) {
    const Arrays x = {values_of(n)};
    double out[64];
    time("sum of all", n, 4.0 * n, x, [&] { canonical_sum(float32, values, x[0].data(), 1, n, 1, out); });
    time("sum of 64 columns", n, 4.0 * n, x, [&] { canonical_sum(float32, values, x[0].data(), 1, n / 64, 64, out); });
    time("global norm", n, 4.0 * n, x, [&] { global_norm({{float32, x[0].data(), n}}); });
  }

  // n values of 64 channels in planes of 28 x 28, or channels last.
  void batchnorm(Index samples) {
    const Index channels = 64, positions = 28 * 28, n = samples * channels * positions;
    Arrays arrays = {values_of(n), values_of(n), std::vector<float>(n)};
    std::vector<float> gamma(channels, 1.0f), beta(channels), mean(channels), inv(channels, 1.0f), more(2 * channels);
    std::vector<double> mean64(channels), var64(channels, 1.0);
    BatchNorm job{};
    job.samples = samples, job.channels = channels, job.positions = positions, job.eps = 1e-5;
    job.x = arrays[0].data(), job.dy = arrays[1].data(), job.out = arrays[2].data();
    job.gamma = gamma.data(), job.beta = beta.data(), job.var = gamma.data(), job.mean = mean.data();
    job.inv = inv.data(), job.mean64 = mean64.data(), job.var64 = var64.data();
    job.dgamma = more.data(), job.dbeta = more.data() + channels;
    const char* names[kDirections] = {"forward", "backward", "inference"};
    for (int direction = 0; direction < kDirections; ++direction) {
      for (bool relu : {false, true}) {
        for (bool last : {false, true}) {
          job.channels_last = last;
          const std::string name =
              std::string("batch norm ") + names[direction] + (relu ? "+relu" : "") + (last ? " NHWC" : " NCHW");
          time(name, n, (direction == backward ? 12.0 : 8.0) * n, arrays,
               [&] { run_batchnorm(float32, static_cast<Direction>(direction), relu, job); });
        }
      }
    }
  }

  void mse(Index rows, Index columns) {
    const Arrays arrays = {values_of(rows * columns), values_of(rows)};
    const std::vector<float> w(columns, 0.01f);
    std::vector<float> r(rows), g(columns);
    MseProblem problem(float32, arrays[0].data(), arrays[1].data(), columns, {1.0, true});
    const Batch all{nullptr, rows};
    const double bytes = 4.0 * rows * columns;
    const std::string shape = " " + std::to_string(columns) + " columns";
    time("MSE loss" + shape, rows * columns, bytes, arrays, [&] { problem.evaluate(w.data(), all, nullptr, nullptr); });
    time("MSE gradient" + shape, rows * columns, bytes, arrays,
         [&] { problem.evaluate(w.data(), all, r.data(), g.data()); });
  }

  void save() const { table_.save(); }

 private:
  bench::Options options_;
  bench::Table table_;
};

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  set_num_threads(options.threads);
  Bench bench(options);
  for (Index n : {Index(1) << 12, options.quick ? Index(1) << 13 : Index(1) << 24}) bench.rules(n);
  for (Index n : {Index(1) << 14, options.quick ? Index(1) << 15 : Index(1) << 26}) bench.sums(n);
  for (Index samples : {1, options.quick ? 2 : 128}) bench.batchnorm(samples);
  for (Index columns : {10, 64, 512}) {
    for (Index n : {Index(1) << 16, options.quick ? Index(1) << 17 : Index(1) << 26}) bench.mse(n / columns, columns);
  }
  bench.save();
  return 0;
}
