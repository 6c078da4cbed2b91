// ConvolutionProgram of python/samestep/proof/convolution.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "inputs.h"
#include "run/jobs.h"

struct ConvolutionCase {
  int samples, channels, outputs;  // of a group
  int size[2], kernel[2], out_size[2], stride[2], padding[2], dilation[2], groups;
};

const ConvolutionCase kConvolutions[] = {
    {3, 30, 4, {9, 10}, {3, 3}, {9, 10}, {1, 1}, {1, 1}, {1, 1}, 1},
    {2, 2, 258, {7, 9}, {3, 2}, {5, 6}, {2, 1}, {2, 0}, {1, 3}, 2},
};

inline std::string name_of(const ConvolutionCase& c) {
  const auto shape = [](int a, int b, const int (&size)[2]) {
    return std::to_string(a) + "x" + std::to_string(b) + "x" + std::to_string(size[0]) + "x" + std::to_string(size[1]);
  };
  return shape(c.samples, c.groups * c.channels, c.size) + " " + shape(c.groups * c.outputs, c.channels, c.kernel) +
         " " + std::to_string(c.out_size[0]) + "x" + std::to_string(c.out_size[1]);
}

// The bytes of y, or of dx, dw and dbias.
template <class T>
std::vector<std::uint8_t> run_convolution_case(samestep::Type type, const ConvolutionCase& c, const std::string& what) {
  const int outputs = c.groups * c.outputs;
  const auto x = integer_values<T>(c.samples * c.groups * c.channels * c.size[0] * c.size[1], 37, 11, 1009, 400, 128.3);
  const auto w = integer_values<T>(outputs * c.channels * c.kernel[0] * c.kernel[1], 53, 17, 911, 455, 257.7);
  const auto bias = integer_values<T>(outputs, 5, 2, 11, 5, 9.1);
  const auto dy = integer_values<T>(c.samples * outputs * c.out_size[0] * c.out_size[1], 31, 3, 401, 200, 77.7);
  std::vector<T> y(dy.size()), dx(x.size()), dw(w.size()), dbias(outputs);
  samestep::Convolution job{};
  job.samples = c.samples, job.groups = c.groups, job.channels = c.channels, job.outputs = c.outputs;
  for (int a = 0; a < 2; ++a) {
    job.size[a] = c.size[a], job.kernel[a] = c.kernel[a], job.out_size[a] = c.out_size[a];
    job.stride[a] = c.stride[a], job.padding[a] = c.padding[a], job.dilation[a] = c.dilation[a];
  }
  job.x = x.data(), job.w = w.data(), job.bias = bias.data(), job.y = y.data();
  job.relu = what == "relu" || what == "masked";
  samestep::run_convolution(type, job);
  std::vector<std::uint8_t> bytes;
  if (what == "y" || what == "relu") {
    append_bytes(bytes, y);
    return bytes;
  }
  job.dy = dy.data(), job.dx = dx.data(), job.dw = dw.data();
  samestep::run_convolution_backward(type, job, what == "masked" ? y.data() : nullptr, dbias.data());
  append_bytes(bytes, dx);
  append_bytes(bytes, dw);
  append_bytes(bytes, dbias);
  return bytes;
}
