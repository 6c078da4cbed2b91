// The tables that the kernels of a step read, in the GPU's memory; backends/gpu/tables.py writes them.
#pragma once
#include "contract/types.h"

namespace samestep {
namespace {

// A tensor, written once, when parameters are bound; twin of Tensor in run/pass.h.
struct Row {
  void* w;      // (size)
  Index size;   // elements
  Index first;  // of the elements of the whole array, the first that is here; a multiple of 1024
  void* states[kMaxStates];
  void *ema, *master, *low, *copy;  // nullptr: there is none
  Index storage, stores_states;     // of parameter and gradient: a Storage; whether the states are kept likewise
  Index copy_storage;
  Index type;       // of the arithmetic
  Index group;      // whose hyper-parameters
  Index first_run;  // number of the first run of its gradient, among those of all tensors
};

// A tensor's gradient, written where it has moved.
struct Given {
  void* g;                 // (size)
  const void* g_in_order;  // in C order, for its norm
  Index place;             // its number among the gradients of the step; -1: none, the tensor sits out
};

// Elements begin, begin + 1, ... of a tensor, for one block of threads.
struct Item {
  Index tensor, begin;
};

// What the step kernels need to know of a tensor's step. form_updates() writes it.
struct Update {
  Coefficients coefficients;
  double scale;         // of the gradient
  double weight_decay;  // of its group
  Index t;              // the number of the step; 0: the tensor sits out
};
constexpr Index kUpdateBytes = 144;
static_assert(sizeof(Update) == kUpdateBytes, "which backends/gpu/tables.py makes room for");

}  // namespace
}  // namespace samestep
