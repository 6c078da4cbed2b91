// The linear layer as XLA calls it: y = x w + bias, perhaps with a ReLU, and its gradients.
#include <xla/ffi/api/ffi.h>

#include "jax/buffers.h"
#include "jax/calls.h"
#include "run/jobs.h"

namespace samestep {
namespace {

namespace ffi = xla::ffi;

constexpr const char* kName = "samestep.jax.linear";

Matrix matrix(Buffers& buffers, size_t i) {
  const auto shape = buffers.shape(i);
  buffers.expect(shape.size() == 2);
  if (!buffers.fits) return {nullptr, 0, 0, 0, 0};
  return {buffers.read(i, shape[0] * shape[1]), shape[0], shape[1], shape[1], 1};
}

// Operands: x, w and perhaps the bias. Result: y.
ffi::Error forward(ffi::RemainingArgs operands, ffi::RemainingRets results, bool relu) {
  return guarded(kName, [&] {
    if (operands.size() < 2 || operands.size() > 3 || results.size() != 1) return false;
    Buffers buffers(operands, results);
    const Matrix x = matrix(buffers, 0), w = matrix(buffers, 1);
    buffers.expect(x.columns == w.rows);
    Product job = product_of(x, w, buffers.written(0, x.rows * w.columns));
    if (operands.size() == 3) job.bias = buffers.read(2, w.columns);
    job.relu = relu;
    if (buffers.fits) run_product(buffers.type, job);
    return buffers.fits;
  });
}

// Operands: dy, x, w, and y where the layer ends in a ReLU. Results: dx, dw and, where there is a bias, dbias.
ffi::Error backward(ffi::RemainingArgs operands, ffi::RemainingRets results) {
  return guarded(kName, [&] {
    if (operands.size() < 3 || operands.size() > 4 || results.size() < 2 || results.size() > 3) return false;
    Buffers buffers(operands, results);
    LinearBackward job{};
    job.dy = matrix(buffers, 0), job.x = matrix(buffers, 1), job.w = matrix(buffers, 2);
    const Index rows = job.dy.rows, columns = job.dy.columns, inputs = job.x.columns;
    buffers.expect(job.x.rows == rows && job.w.rows == inputs && job.w.columns == columns);
    if (operands.size() == 4) {
      job.y = matrix(buffers, 3);
      buffers.expect(job.y.rows == rows && job.y.columns == columns);
    }
    job.dx = buffers.written(0, rows * inputs), job.dw = buffers.written(1, inputs * columns);
    if (results.size() == 3) job.dbias = buffers.written(2, columns);
    if (buffers.fits) run_linear_backward(buffers.type, job);
    return buffers.fits;
  });
}

XLA_FFI_DEFINE_HANDLER(kForward, forward, ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER(kBackward, backward, ffi::Ffi::Bind().RemainingArgs().RemainingRets());

}  // namespace

void* xla_linear() { return reinterpret_cast<void*>(kForward); }
void* xla_linear_backward() { return reinterpret_cast<void*>(kBackward); }

}  // namespace samestep
