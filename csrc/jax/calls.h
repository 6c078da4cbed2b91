// What XLA calls, by its foreign function interface: addresses of handlers, for whoever registers them.
#pragma once

namespace samestep {

void* xla_step();                 // of an optimizer: step.cpp
void* xla_linear();               // the linear layer: linear.cpp
void* xla_linear_backward();      // its gradients
void* xla_batchnorm();            // batch norm in training: batchnorm.cpp
void* xla_batchnorm_backward();   // its gradients
void* xla_batchnorm_inference();  // by fixed statistics

}  // namespace samestep
