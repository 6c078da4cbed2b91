// The operands and results of one call of XLA, and errors as XLA has them.
#pragma once
#include <xla/ffi/api/ffi.h>

#include <exception>
#include <string>

#include "run/jobs.h"

namespace samestep {

// The buffers of one call, all of one type; what does not fit is remembered.
class Buffers {
 public:
  Buffers(const xla::ffi::RemainingArgs& operands, const xla::ffi::RemainingRets& results)
      : operands_(operands), results_(results) {
    if (operands.size() == 0) return;
    dtype_ = operand(0).element_type();
    type = dtype_ == xla::ffi::F64 ? float64 : float32;
    fits = dtype_ == xla::ffi::F32 || dtype_ == xla::ffi::F64;
  }

  xla::ffi::AnyBuffer::Dimensions shape(size_t i) const { return operand(i).dimensions(); }
  void* read(size_t i, Index n) { return data(operand(i), n); }
  void* written(size_t i, Index n) { return data(*results_.get<xla::ffi::AnyBuffer>(i).value(), n); }
  void expect(bool holds) { fits = fits && holds; }

  Type type = float32;
  bool fits = false;

 private:
  xla::ffi::AnyBuffer operand(size_t i) const { return operands_.get<xla::ffi::AnyBuffer>(i).value(); }

  void* data(const xla::ffi::AnyBuffer& buffer, Index n) {
    expect(static_cast<Index>(buffer.element_count()) == n && buffer.element_type() == dtype_);
    return buffer.untyped_data();
  }

  const xla::ffi::RemainingArgs& operands_;
  const xla::ffi::RemainingRets& results_;
  xla::ffi::DataType dtype_ = xla::ffi::DataType::INVALID;
};

// What run() comes to: it says whether the buffers fit, and has computed nothing where they do not.
template <class Run>
xla::ffi::Error guarded(const char* name, const Run& run) {
  try {
    if (!run()) {
      return xla::ffi::Error::InvalidArgument(std::string(name) + ": expected arrays of one type whose shapes fit");
    }
  } catch (const std::exception& error) {  // memory ran out
    return xla::ffi::Error::Internal(std::string(name) + ": " + error.what());
  }
  return xla::ffi::Error::Success();
}

}  // namespace samestep
