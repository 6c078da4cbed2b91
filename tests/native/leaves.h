// LeavesProgram of python/samestep/proof/leaves.py.
#pragma once

#include <cstdint>
#include <vector>

#include "inputs.h"
#include "run/jobs.h"

// Adds leaves of n elements into the first: neighbours, then their sums, an odd last one carried up.
template <class T>
void add_leaves_of(samestep::Type type, samestep::Index n, const std::vector<T*>& leaves) {
  for (std::size_t step = 1; step < leaves.size(); step *= 2) {
    for (std::size_t leaf = 0; leaf + step < leaves.size(); leaf += 2 * step) {
      samestep::add_leaves(type, leaves[leaf + step], n, leaves[leaf]);
    }
  }
}

// The bytes of the mean of so many leaves.
template <class T>
std::vector<std::uint8_t> run_leaves(samestep::Type type, int leaves, bool weighted) {
  const int n = 1000;
  std::vector<std::vector<T>> level;
  int total = 0;
  for (int leaf = 0; leaf < leaves; ++leaf) {
    const int thirds = weighted ? leaf % 5 : 3;
    level.push_back(integer_values<T>(n, 53, 29 + leaf, 907, 450, 331.1));
    samestep::weigh_leaf(type, samestep::as_is, level.back().data(), thirds / 3.0, n, level.back().data());
    total += thirds;
  }
  std::vector<T*> sums;
  for (std::vector<T>& leaf : level) sums.push_back(leaf.data());
  add_leaves_of(type, n, sums);
  samestep::average_leaves(type, level[0].data(), total / 3.0, n, samestep::as_is, level[0].data());
  std::vector<std::uint8_t> bytes;
  append_bytes(bytes, level[0]);
  return bytes;
}
