// A quick check of the kernels of a table, short enough for every import.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace samestep {

// Runs the kernels of the table in use on a few numbers. Returns (kernel, hash of the results' bytes); on every machine
// that keeps the contract the hashes are the same.
std::vector<std::pair<std::string, std::uint64_t>> self_check();

}  // namespace samestep
