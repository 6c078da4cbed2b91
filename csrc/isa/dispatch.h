// The instruction sets of this build: which of them this machine can run, and which one is in use.
#pragma once

#include "isa/kernels.h"

namespace samestep {

constexpr int kMaxIsas = 8;  // tables in a build

int available_isas(const Isa** out);  // writes up to kMaxIsas tables to out, best first; returns how many
const Isa& active_isa();              // at first the best
bool set_isa(const char* name);       // false: unknown, not supported by this machine, or withdrawn
void withdraw_isa(const char* name);  // its kernels failed the self-check: never choose it again

}  // namespace samestep
