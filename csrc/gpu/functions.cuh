// The functions of one value on a GPU. The formulas are those of contract/functions.h.
#pragma once
#include "contract/functions.h"
#include "contract/types.h"
#include "gpu/threads.cuh"

namespace samestep {
namespace {

struct FunctionArguments {
  const void* x;  // (n)
  Index n;
  void* out;  // (n)
};

// out_i = F(x_i): a thread computes one.
template <class F, class T>
void map(const FunctionArguments& a) {
  const Index i = thread_number();
  if (i < a.n) static_cast<T*>(a.out)[i] = F::of(static_cast<const T*>(a.x)[i]);
}

}  // namespace
}  // namespace samestep
