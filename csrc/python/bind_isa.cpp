// The rules, the instruction sets and the threads.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <string>
#include <vector>

#include "isa/dispatch.h"
#include "python/bind.h"
#include "run/openmp.h"
#include "run/self_check.h"
#include "run/system.h"
#include "run/threads.h"
#include "run/tuner.h"

namespace samestep {

namespace {

std::vector<std::string> words(const char* text) {
  std::vector<std::string> out;
  for (const char* p = text; *p != '\0';) {
    size_t n = std::strcspn(p, " ");
    out.emplace_back(p, n);
    p += n + std::strspn(p + n, " ");
  }
  return out;
}

py::object text_or_none(const char* text) { return *text == '\0' ? py::object(py::none()) : py::str(text); }

py::list rules() {
  py::list out;
  for (int i = 0; i < active_isa().n_rules; ++i) {
    const Rule& rule = active_isa().rules[i];
    out.append(py::make_tuple(rule.name, rule.family, text_or_none(rule.form), text_or_none(rule.variant),
                              py::tuple(py::cast(words(rule.hyper))), py::tuple(py::cast(words(rule.states)))));
  }
  return out;
}

std::vector<std::string> isas() {
  const Isa* tables[kMaxIsas];
  int n = available_isas(tables);
  std::vector<std::string> names;
  for (int i = 0; i < n; ++i) names.emplace_back(tables[i]->name);
  return names;
}

}  // namespace

void bind_isa(py::module_& m) {
  m.attr("compile_flags") = SAMESTEP_FLAGS;
  m.def("rules", rules,
        "(name, family, form, variant, hyper-parameters, states) of every rule; form and variant may be None");
  m.def("isas", isas, "instruction sets this machine can run, best first");
  m.def("get_isa", [] { return active_isa().name; });
  m.def("set_isa", [](const std::string& name) { return set_isa(name.c_str()); }, "False: unknown or not supported");
  m.def("withdraw_isa", [](const std::string& name) { withdraw_isa(name.c_str()); });
  m.def("self_check", self_check, "(kernel, hash of what it makes of a few numbers), for the table in use");
  m.def("vector_bytes", [] { return active_isa().vector_bytes; }, "what the table in use was compiled for");
  m.def("get_num_threads", get_num_threads);
  m.def("set_num_threads", set_num_threads);
  m.def("wake_always", wake_always, py::arg("on"));
  m.def("set_tuning", set_tuning, py::arg("on"));
  m.def("use_openmp_of", use_openmp_of, py::arg("library"));
  m.def("openmp_library", openmp_library);
  m.def("default_num_threads", granted_processors);
}

}  // namespace samestep
