// Where no library's team is shared. PyTorch runs on libgomp on Linux alone: on macOS on LLVM's runtime, on Windows on
// Microsoft's or Intel's.
#include "run/openmp.h"

namespace samestep {

bool use_openmp_of(const char*) { return false; }
std::string openmp_library() { return ""; }
const OpenMpTeam* openmp_team(int) { return nullptr; }

}  // namespace samestep
