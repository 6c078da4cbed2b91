// Cuts fingerprints into work items: blocks of 1024 bytes, whose sums are added. No arithmetic beyond that.
#include <atomic>

#include "isa/dispatch.h"
#include "run/jobs.h"
#include "run/threads.h"

namespace samestep {
namespace {

// Blocks of a work item: some 10 microseconds, many times what it costs a thread to claim one.
constexpr Index kItemBlocks = 128;

Index bytes_of_element(Contents contents) { return contents == numbers32 ? 4 : contents == numbers64 ? 8 : 2; }

}  // namespace

unsigned long long fingerprint(Contents contents, const void* x, Index n) {
  const FingerprintKernels& kernels = active_isa().fingerprint;
  const Index bytes = n * bytes_of_element(contents), blocks = ceil_div(bytes, kFingerprintBytes);
  std::atomic<unsigned long long> sum{0};
  run_parts(
      blocks, kItemBlocks, [&](Index first, Index last) { sum += kernels.blocks[contents](x, n, first, last, 0); },
      blocks > kItemBlocks);
  return kernels.finish(sum, bytes);
}

}  // namespace samestep
