// The instruction sets of this build: which of them this machine runs, and which one is in use.
#pragma once

#include "isa/kernels.h"

namespace samestep {

int available_isas(const Isa** out, int capacity);  // best first; returns how many
const Isa& active_isa();
bool set_isa(const char* name);       // false: unknown, not supported here, or withdrawn
void withdraw_isa(const char* name);  // not to be used from now on: its kernels failed the self-check

}  // namespace samestep
