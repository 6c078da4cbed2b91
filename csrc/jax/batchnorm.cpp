// Batch norm as XLA calls it: training forward with the running statistics, its gradients, and inference.
#include <xla/ffi/api/ffi.h>

#include <cstring>
#include <vector>

#include "jax/buffers.h"
#include "jax/calls.h"
#include "run/jobs.h"

namespace samestep {
namespace {

namespace ffi = xla::ffi;

constexpr const char* kName = "samestep.jax.batch_norm";

// Of operand x, which is (M, C), or in planes (N, C, S), and of the weight and bias that follow it.
BatchNorm job_of(Buffers& buffers, size_t x) {
  BatchNorm job{};
  const auto shape = buffers.shape(x);
  buffers.expect(shape.size() == 2 || shape.size() == 3);
  if (!buffers.fits) return job;
  job.channels_last = shape.size() == 2;
  job.samples = shape[0], job.channels = shape[1], job.positions = job.channels_last ? 1 : shape[2];
  job.x = buffers.read(x, job.samples * job.channels * job.positions);
  job.gamma = buffers.read(x + 1, job.channels), job.beta = buffers.read(x + 2, job.channels);
  return job;
}

Index elements(const BatchNorm& job) { return job.samples * job.channels * job.positions; }

// Operands: x, weight, bias, running mean and variance. Results: y, both running statistics after this batch, and what
// backward reads, mean and inv.
ffi::Error train(ffi::RemainingArgs operands, ffi::RemainingRets results, bool relu, double eps, double momentum) {
  return guarded(kName, [&] {
    if (operands.size() != 5 || results.size() != 5) return false;
    Buffers buffers(operands, results);
    BatchNorm job = job_of(buffers, 0);
    const Index C = job.channels;
    job.out = buffers.written(0, elements(job));
    const void *old_mean = buffers.read(3, C), *old_var = buffers.read(4, C);
    void *mean = buffers.written(1, C), *var = buffers.written(2, C);
    job.mean = buffers.written(3, C), job.inv = buffers.written(4, C), job.eps = eps;
    if (!buffers.fits) return false;
    std::vector<double> statistics(2 * C);
    job.mean64 = statistics.data(), job.var64 = job.mean64 + C;
    run_batchnorm(buffers.type, forward, relu, job);
    std::memcpy(mean, old_mean, C * bytes_of(buffers.type));
    std::memcpy(var, old_var, C * bytes_of(buffers.type));
    update_running(buffers.type, job.mean64, job.var64, C, job.samples * job.positions, momentum, 0, mean, var);
    return true;
  });
}

// Operands: dy, x, weight, bias, mean and inv. Results: dx, dweight and dbias.
ffi::Error differentiate(ffi::RemainingArgs operands, ffi::RemainingRets results, bool relu) {
  return guarded(kName, [&] {
    if (operands.size() != 6 || results.size() != 3) return false;
    Buffers buffers(operands, results);
    BatchNorm job = job_of(buffers, 1);
    const Index C = job.channels;
    job.dy = buffers.read(0, elements(job)), job.out = buffers.written(0, elements(job));
    job.mean = buffers.read(4, C), job.inv = buffers.read(5, C);
    job.dgamma = buffers.written(1, C), job.dbeta = buffers.written(2, C);
    if (!buffers.fits) return false;
    if (elements(job) == 0) {  // sums of nothing, which run_batchnorm() leaves alone
      std::memset(job.dgamma, 0, C * bytes_of(buffers.type));
      std::memset(job.dbeta, 0, C * bytes_of(buffers.type));
    }
    run_batchnorm(buffers.type, backward, relu, job);
    return true;
  });
}

// Operands: x, weight, bias, running mean and variance. Result: y.
ffi::Error infer(ffi::RemainingArgs operands, ffi::RemainingRets results, bool relu, double eps) {
  return guarded(kName, [&] {
    if (operands.size() != 5 || results.size() != 1) return false;
    Buffers buffers(operands, results);
    BatchNorm job = job_of(buffers, 0);
    job.out = buffers.written(0, elements(job));
    job.mean = buffers.read(3, job.channels), job.var = buffers.read(4, job.channels), job.eps = eps;
    if (buffers.fits) run_batchnorm(buffers.type, inference, relu, job);
    return buffers.fits;
  });
}

XLA_FFI_DEFINE_HANDLER(
    kTrain, train,
    ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<bool>("relu").Attr<double>("eps").Attr<double>("momentum"));
XLA_FFI_DEFINE_HANDLER(kDifferentiate, differentiate,
                       ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER(kInfer, infer,
                       ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<bool>("relu").Attr<double>("eps"));

}  // namespace

void* xla_batchnorm() { return reinterpret_cast<void*>(kTrain); }
void* xla_batchnorm_backward() { return reinterpret_cast<void*>(kDifferentiate); }
void* xla_batchnorm_inference() { return reinterpret_cast<void*>(kInfer); }

}  // namespace samestep
