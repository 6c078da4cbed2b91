// DLPack, by which C reads where a tensor of torch lies without a call of Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "isa/kernels.h"

namespace samestep {

namespace py = pybind11;

// DLPack's C structs, version 1: https://dmlc.github.io/dlpack. Exchange is DLPackExchangeAPI, View is DLTensor.
namespace dlpack {

constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;
constexpr std::uint8_t kComplex = 5;

struct View {
  char* data;
  std::int32_t device_type, device_id, n_axes;
  struct Type {
    std::uint8_t code, bits;
    std::uint16_t lanes;
    bool operator==(const Type& o) const { return code == o.code && bits == o.bits && lanes == o.lanes; }
  } dtype;
  const Index *shape, *strides;  // in elements
  std::uint64_t byte_offset;
};

struct Exchange {
  std::uint32_t major, minor;
  const Exchange* previous;
  void *allocate, *from_tensor, *to_tensor;  // not used here
  int (*describe)(void* tensor, View* out);  // may be null
  void* current_stream;
};

// How C looks at tensors of this type.
inline const Exchange* exchange_of(const py::object& type) {
  const char* name = "dlpack_exchange_api";
  auto capsule = py::object(type.attr("__dlpack_c_exchange_api__"));
  auto* exchange = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (exchange == nullptr) throw py::error_already_set();
  while (exchange != nullptr && exchange->major != kMajor) exchange = exchange->previous;
  if (exchange == nullptr || exchange->describe == nullptr) {
    throw std::runtime_error("tensors: expected a type that offers DLPackExchangeAPI, version 1, with DLTensor");
  }
  return exchange;
}

}  // namespace dlpack

}  // namespace samestep
