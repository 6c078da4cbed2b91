// The tuner on times that are made up: what it tries, in which order, and what it keeps. Prints what is wrong; exit 1
// if anything is.
#include "run/tuner.h"

#include <cstdio>
#include <functional>
#include <string>

namespace {

using samestep::Setting;
using samestep::Tuner;

const std::vector<Setting> kThree = {{100, 8}, {50, 8}, {200, 8}};

// Runs so many steps; returns the items of those that were trials, without the first, which does not count.
std::string steps(Tuner& tuner, int n, const std::function<double(const Setting&, int)>& seconds) {
  std::string tried;
  for (int step = 0; step < n; ++step) {
    if (!tuner.begin_step()) continue;
    tried += std::to_string(tuner.setting().largest_item) + " ";
    tuner.record(seconds(tuner.setting(), step));
  }
  return tried;
}

int failures = 0;

template <class Value>
void expect(const char* what, const Value& found, const Value& expected) {
  if (found == expected) return;
  ++failures;
  std::printf("%s: got %s, expected %s\n", what, std::to_string(found).c_str(), std::to_string(expected).c_str());
}

void expect_text(const char* what, const std::string& found, const std::string& expected) {
  if (found == expected) return;
  ++failures;
  std::printf("%s: got %s, expected %s\n", what, found.c_str(), expected.c_str());
}

std::string turns(int n) {
  std::string text;
  for (int i = 0; i < n; ++i) text += "100 50 200 ";
  return text;
}

}  // namespace

int main() {
  {
    Tuner tuner(kThree);
    const auto smaller_is_faster = [](const Setting& s, int) { return double(s.largest_item); };
    expect_text("turns", steps(tuner, 40, smaller_is_faster), "100 100 50 200 100 50 100 50 100 50 100 50 ");
    expect("a setting above 1.5 times the default is tried once", int(tuner.trials()[2].seconds.size()), 1);
  }
  {
    Tuner tuner(kThree);
    const auto slow_first = [](const Setting& s, int step) { return step == 0 ? 1e9 : 100 + s.largest_item * 0.1; };
    expect_text("turns", steps(tuner, 40, slow_first), "100 " + turns(5));
    expect("the fastest is kept", tuner.kept(), 1);
    expect("and used", tuner.setting().largest_item, samestep::Index(50));
  }
  {
    Tuner tuner(kThree);
    steps(tuner, 40, [](const Setting& s, int) { return s.largest_item == 100 ? 100.0 : 98.5; });
    expect("noise changes nothing", tuner.kept(), 0);
  }
  {
    Tuner tuner(kThree);  // one step of the default and one of another meet something that slows them
    steps(tuner, 40, [](const Setting& s, int step) {
      return step == 4 || step == 8 ? 140.0 : s.largest_item == 200 ? 90.0 : 100.0;
    });
    expect("medians decide", tuner.kept(), 2);
  }
  {
    Tuner tuner(kThree);
    const auto equal = [](const Setting&, int) { return 1.0; };
    steps(tuner, 16, equal);
    expect_text("kept", steps(tuner, 999, equal), "");
    expect_text("tried again", steps(tuner, 15, [](const Setting& s, int) { return s.largest_item * 0.01 + 1; }),
                turns(5));
    expect("another choice", tuner.kept(), 1);
    expect_text("kept twice as long", steps(tuner, 1999, equal), "");
    expect_text("and tried again", steps(tuner, 15, equal), turns(5));
  }
  for (int before : {3, 20}) {  // steps: while it tries, and after that
    Tuner tuner(kThree);
    steps(tuner, before, [](const Setting&, int) { return 1.0; });
    tuner.keep(2);
    expect_text("one is to be kept", steps(tuner, 3000, [](const Setting&, int) { return 1.0; }), "");
    expect("that one", tuner.kept(), 2);
    expect("and used", tuner.setting().largest_item, samestep::Index(200));
  }
  {
    Tuner tuner({{100, 8}});
    expect_text("with one setting there is nothing to try", steps(tuner, 3000, [](const Setting&, int) { return 1.0; }),
                "");
    expect("the one is kept", tuner.kept(), 0);
  }
  {
    const bool before = samestep::set_tuning(false);
    Tuner tuner(kThree);
    samestep::set_tuning(before);
    expect_text("switched off", steps(tuner, 3000, [](const Setting& s, int) { return double(s.largest_item); }), "");
    expect("the default is kept", tuner.kept(), 0);
  }
  return failures == 0 ? 0 : 1;
}
