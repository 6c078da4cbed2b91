// The linear layer as XLA calls it: y = x w + bias, perhaps with a ReLU, and its gradients.
#include <xla/ffi/api/ffi.h>

#include <exception>
#include <string>

#include "jax/calls.h"
#include "run/jobs.h"

namespace samestep {
namespace {

namespace ffi = xla::ffi;

// The buffers of one call, all of one type; what does not fit is remembered.
class Buffers {
 public:
  Buffers(const ffi::RemainingArgs& operands, const ffi::RemainingRets& results)
      : operands_(operands), results_(results) {
    if (operands.size() == 0) return;
    dtype_ = operands.get<ffi::AnyBuffer>(0).value().element_type();
    type = dtype_ == ffi::F64 ? float64 : float32;
    fits = dtype_ == ffi::F32 || dtype_ == ffi::F64;
  }

  Matrix matrix(size_t i) {
    const ffi::AnyBuffer buffer = operands_.get<ffi::AnyBuffer>(i).value();
    const auto shape = buffer.dimensions();
    fits = fits && shape.size() == 2 && buffer.element_type() == dtype_;
    if (!fits) return {nullptr, 0, 0, 0, 0};
    return {buffer.untyped_data(), shape[0], shape[1], shape[1], 1};
  }
  const void* vector(size_t i, Index n) {
    const ffi::AnyBuffer buffer = operands_.get<ffi::AnyBuffer>(i).value();
    fits = fits && static_cast<Index>(buffer.element_count()) == n && buffer.element_type() == dtype_;
    return buffer.untyped_data();
  }
  void* written(size_t i, Index n) {
    const ffi::AnyBuffer buffer = *results_.get<ffi::AnyBuffer>(i).value();
    fits = fits && static_cast<Index>(buffer.element_count()) == n && buffer.element_type() == dtype_;
    return buffer.untyped_data();
  }
  void expect(bool holds) { fits = fits && holds; }

  Type type = float32;
  bool fits = false;

 private:
  const ffi::RemainingArgs& operands_;
  const ffi::RemainingRets& results_;
  ffi::DataType dtype_ = ffi::DataType::INVALID;
};

template <class Run>
ffi::Error guarded(const Run& run) {
  try {
    if (!run()) return ffi::Error::InvalidArgument("samestep.jax.linear: expected matrices of one type that fit");
  } catch (const std::exception& error) {  // memory ran out
    return ffi::Error::Internal(std::string("samestep.jax.linear: ") + error.what());
  }
  return ffi::Error::Success();
}

// Operands: x, w and perhaps the bias. Result: y.
ffi::Error forward(ffi::RemainingArgs operands, ffi::RemainingRets results, bool relu) {
  return guarded([&] {
    if (operands.size() < 2 || operands.size() > 3 || results.size() != 1) return false;
    Buffers buffers(operands, results);
    const Matrix x = buffers.matrix(0), w = buffers.matrix(1);
    buffers.expect(x.columns == w.rows);
    Product job = product_of(x, w, buffers.written(0, x.rows * w.columns));
    if (operands.size() == 3) job.bias = buffers.vector(2, w.columns);
    job.relu = relu;
    if (buffers.fits) run_product(buffers.type, job);
    return buffers.fits;
  });
}

// Operands: dy, x, w, and y where the layer ends in a ReLU. Results: dx, dw and, where there is a bias, dbias.
ffi::Error backward(ffi::RemainingArgs operands, ffi::RemainingRets results) {
  return guarded([&] {
    if (operands.size() < 3 || operands.size() > 4 || results.size() < 2 || results.size() > 3) return false;
    Buffers buffers(operands, results);
    LinearBackward job{};
    job.dy = buffers.matrix(0), job.x = buffers.matrix(1), job.w = buffers.matrix(2);
    const Index rows = job.dy.rows, columns = job.dy.columns, inputs = job.x.columns;
    buffers.expect(job.x.rows == rows && job.w.rows == inputs && job.w.columns == columns);
    if (operands.size() == 4) {
      job.y = buffers.matrix(3);
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
