// A first look at a table's kernels, short enough for every start of the program.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace samestep {

// Steps, sums, normalises and differentiates a few numbers with the table in use. Returns (kernel, hash of the bytes),
// the same on every machine that keeps the contract.
std::vector<std::pair<std::string, std::uint64_t>> self_check();

}  // namespace samestep
