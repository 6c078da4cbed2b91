// csrc/gpu/kernels.cu as a shared library of the host: what tests/backends/gpu/test_gpu.py launches in the place of a
// GPU.
#include <vector>

#include "cuda_shim.h"

namespace {

struct Kernel {
  const char* name;
  long long argument_size;
  shim::Kernel run;
};
std::vector<Kernel> kernels;

struct Listed {
  explicit Listed(Kernel kernel) { kernels.push_back(kernel); }
};

const Kernel* find(const char* name) {
  for (const Kernel& kernel : kernels) {
    if (std::strcmp(kernel.name, name) == 0) return &kernel;
  }
  return nullptr;
}

}  // namespace

#define KERNEL(name, Arguments, ...) \
  const Listed name##_listed(        \
      {#name, sizeof(Arguments), [](const void* a) { __VA_ARGS__(*static_cast<const Arguments*>(a)); }});
#include "gpu/kernels.cu"

#ifndef KERNELS
#define KERNELS ALL_KERNELS()
#endif
namespace samestep {
KERNELS
}  // namespace samestep

extern "C" {

// Of the kernel's one argument; -1: no such kernel.
__attribute__((visibility("default"))) long long argument_size(const char* name) {
  const Kernel* kernel = find(name);
  return kernel == nullptr ? -1 : kernel->argument_size;
}

__attribute__((visibility("default"))) const char* kernel_name(long long i) {
  return i < static_cast<long long>(kernels.size()) ? kernels[i].name : nullptr;
}

__attribute__((visibility("default"))) void launch(const char* name, unsigned grid, unsigned threads,
                                                   const void* arguments, unsigned shared_bytes) {
  const Kernel* kernel = find(name);
  gridDim = {grid, 1, 1};
  blockDim = {threads, 1, 1};
  shim::run_grid(name, kernel->run, arguments, shared_bytes);
}

}  // extern "C"
