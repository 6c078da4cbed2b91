// The step of an optimizer as a call of XLA's foreign function interface.
#pragma once

namespace samestep {

// The handler that XLA calls, as an address for whoever registers it.
void* xla_step();

}  // namespace samestep
