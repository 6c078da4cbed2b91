// The kernels of a GPU: a list of what can be launched. backends/gpu/kernels.py joins this file and what it includes
// into one text and compiles that for the GPU at hand. Formulas are those of contract/, loops those of the .cuh files,
// and the order of operations is the contract's, whatever the number of threads.
//
// Every kernel takes one struct, XArguments, by value. kernels.py lays it out again, field by field, and
// tests/backends/gpu/test_gpu_arguments.py compares the two.
#include "gpu/batchnorm.cuh"
#include "gpu/convolution.cuh"
#include "gpu/fingerprint.cuh"
#include "gpu/functions.cuh"
#include "gpu/gradients.cuh"
#include "gpu/leaves.cuh"
#include "gpu/mse.cuh"
#include "gpu/product.cuh"
#include "gpu/softmax.cuh"
#include "gpu/step.cuh"
#include "gpu/storage.cuh"
#include "gpu/sums.cuh"
#include "gpu/updates.cuh"

namespace samestep {
namespace {

// clang-format off
#define RULE(name, family, form, variant, hyper, states, ...) template <class T> using rule_##name = __VA_ARGS__;
FOR_EACH_RULE(RULE)
// clang-format on

}  // namespace
}  // namespace samestep

// Lists of kernels. kernels.py compiles one list at a time, the first time that one of its kernels is launched; tests
// compile all, and may define KERNEL by themselves. Expand them in namespace samestep, not in the unnamed one, which
// would mangle the names.
#ifndef KERNEL
#define KERNEL(name, Arguments, ...) \
  extern "C" __global__ void name(const __grid_constant__ Arguments a) { __VA_ARGS__(a); }
// With registers for as many threads as share a processor's memory.
#define SHARING_KERNEL(name, Arguments, ...)                                                                \
  extern "C" __global__ void __launch_bounds__(kSharingThreads) name(const __grid_constant__ Arguments a) { \
    __VA_ARGS__(a);                                                                                         \
  }
#else
#define SHARING_KERNEL KERNEL
#endif

#define STEP_KERNELS_OF(name, suffix, ...)                                                           \
  KERNEL(step_##name##suffix##_float32, StepArguments, step<rule_##name<float>, float, __VA_ARGS__>) \
  KERNEL(step_##name##suffix##_float64, StepArguments, step<rule_##name<double>, double, __VA_ARGS__>)
#define STEP_KERNELS(name, ...)                                                                       \
  KERNEL(form_updates_##name, UpdateArguments, form_updates<rule_##name<float>, rule_##name<double>>) \
  STEP_KERNELS_OF(name, , kPlain)
#define OPTION_KERNELS(name, ...)           \
  STEP_KERNELS_OF(name, _options, kOptions) \
  STEP_KERNELS_OF(name, _decoupled, kDecoupled)
#define STORED_KERNELS(name, ...) STEP_KERNELS_OF(name, _stored, kStored)
#define FINGERPRINTED_KERNELS(name, ...)                       \
  STEP_KERNELS_OF(name, _options_fingerprints, kOptions, true) \
  STEP_KERNELS_OF(name, _decoupled_fingerprints, kDecoupled, true)
#define STORED_FINGERPRINTED_KERNELS(name, ...) STEP_KERNELS_OF(name, _stored_fingerprints, kStored, true)

#define GRADIENT_KERNELS_OF(type, ...)                                              \
  KERNEL(square_gradients_##type, GradientArguments, square_gradients<__VA_ARGS__>) \
  KERNEL(check_gradients_##type, GradientArguments, check_gradients<__VA_ARGS__>)
#define GRADIENT_KERNELS()                            \
  GRADIENT_KERNELS_OF(float32, AsIs<float>)           \
  GRADIENT_KERNELS_OF(float64, AsIs<double>)          \
  GRADIENT_KERNELS_OF(bfloat16, Widened<BFloat16>)    \
  GRADIENT_KERNELS_OF(float16, Widened<Float16>)      \
  KERNEL(pair_squares, NormArguments, pair_gradients) \
  KERNEL(norm_float64, NormArguments, finish_norm)

#define WORD_KERNELS() KERNEL(write_words, WordArguments, store_words)
#define STORAGE_KERNELS() KERNEL(convert_float32, ConvertArguments, convert)

#define SUM_KERNELS_OF(T, type)                                               \
  KERNEL(sum_runs_values_##type, BlockSumArguments, sum_runs<T, Values<T>>)   \
  KERNEL(sum_runs_squares_##type, BlockSumArguments, sum_runs<T, Squares<T>>) \
  KERNEL(sum_columns_values_##type, BlockSumArguments, sum_columns<T, Values<T>>)
#define SUM_KERNELS()             \
  SUM_KERNELS_OF(float, float32)  \
  SUM_KERNELS_OF(double, float64) \
  KERNEL(pair_rows, PairArguments, pair_runs)

#define FINGERPRINT_KERNELS_OF(type, ...) KERNEL(fingerprint_##type, FingerprintArguments, hash_array<__VA_ARGS__>)
#define FINGERPRINT_KERNELS()                                         \
  FINGERPRINT_KERNELS_OF(float32, Fingerprinted32, float)             \
  FINGERPRINT_KERNELS_OF(float64, Fingerprinted64, double)            \
  FINGERPRINT_KERNELS_OF(bfloat16, FingerprintedBF16, unsigned short) \
  FINGERPRINT_KERNELS_OF(float16, FingerprintedF16, unsigned short)   \
  FINGERPRINT_KERNELS_OF(uint16, FingerprintedBits, unsigned short)

#define BATCHNORM_KERNELS_OF(T, type, suffix, relu)                                                        \
  KERNEL(add_blocks_forward##suffix##_##type, BatchNormArguments, add_blocks<Forward<T, relu>, T>)         \
  KERNEL(finish_forward##suffix##_##type, BatchNormArguments, finish<Forward<T, relu>>)                    \
  KERNEL(apply_forward##suffix##_##type, BatchNormArguments, apply<Forward<T, relu>, T>)                   \
  SHARING_KERNEL(whole_forward##suffix##_##type, BatchNormArguments, whole_channel<Forward<T, relu>, T>)   \
  KERNEL(add_blocks_backward##suffix##_##type, BatchNormArguments, add_blocks<Backward<T, relu>, T>)       \
  KERNEL(finish_backward##suffix##_##type, BatchNormArguments, finish<Backward<T, relu>>)                  \
  KERNEL(apply_backward##suffix##_##type, BatchNormArguments, apply<Backward<T, relu>, T>)                 \
  SHARING_KERNEL(whole_backward##suffix##_##type, BatchNormArguments, whole_channel<Backward<T, relu>, T>) \
  KERNEL(prepare_inference##suffix##_##type, BatchNormArguments, prepare<Inference<T, relu>>)              \
  KERNEL(apply_inference##suffix##_##type, BatchNormArguments, apply<Inference<T, relu>, T>)
#define BATCHNORM_KERNELS()                                                  \
  BATCHNORM_KERNELS_OF(float, float32, , false)                              \
  BATCHNORM_KERNELS_OF(float, float32, _relu, true)                          \
  BATCHNORM_KERNELS_OF(double, float64, , false)                             \
  BATCHNORM_KERNELS_OF(double, float64, _relu, true)                         \
  KERNEL(update_running_float32, RunningArguments, update_running_of<float>) \
  KERNEL(update_running_float64, RunningArguments, update_running_of<double>)

#define MSE_KERNELS_OF(T, type)                                        \
  KERNEL(mse_residuals_##type, MseArguments, residuals<T>)             \
  KERNEL(mse_gradient_blocks_##type, MseArguments, gradient_blocks<T>) \
  KERNEL(mse_gradient_##type, MseArguments, gradient<T>)
#define MSE_KERNELS()             \
  MSE_KERNELS_OF(float, float32)  \
  MSE_KERNELS_OF(double, float64) \
  KERNEL(mse_loss_float64, MseArguments, loss)

#define PRODUCT_KERNELS_OF(T, type)                                     \
  KERNEL(multiply_##type, ProductArguments, multiply<T, kSide>)         \
  KERNEL(relu_gradient_##type, ReluGradientArguments, relu_gradient<T>) \
  KERNEL(round_sums_##type, RoundArguments, round_sums<T>)
#define PRODUCT_KERNELS()                                                       \
  KERNEL(multiply_large_float32, ProductArguments, multiply<float, kLargeSide>) \
  PRODUCT_KERNELS_OF(float, float32)                                            \
  PRODUCT_KERNELS_OF(double, float64)

#define CONVOLUTION_TILES(T, type, side)                                         \
  KERNEL(convolve_##type, ConvolutionArguments, convolve<T, side>)               \
  KERNEL(convolve_weight_##type, ConvolutionArguments, convolve_weight<T, side>) \
  KERNEL(multiply_taps_##type, ConvolutionArguments, multiply_taps<T, side>)
#define CONVOLUTION_KERNELS_OF(T, type)                        \
  CONVOLUTION_TILES(T, type, kSide)                            \
  KERNEL(add_spans_##type, ConvolutionArguments, add_spans<T>) \
  KERNEL(add_taps_##type, ConvolutionArguments, add_taps<T>)   \
  KERNEL(order_terms_##type, TermArguments, order_terms<T>)
#define CONVOLUTION_KERNELS()                         \
  CONVOLUTION_TILES(float, large_float32, kLargeSide) \
  CONVOLUTION_KERNELS_OF(float, float32)              \
  CONVOLUTION_KERNELS_OF(double, float64)

#define LEAF_KERNELS_OF(T, type)                              \
  KERNEL(weigh_leaf_##type, LeafArguments, weigh_elements<T>) \
  KERNEL(add_leaves_##type, LeafArguments, add_elements<T>)   \
  KERNEL(average_leaves_##type, LeafArguments, average_elements<T>)
#define LEAF_KERNELS()            \
  LEAF_KERNELS_OF(float, float32) \
  LEAF_KERNELS_OF(double, float64)

#define FUNCTION_KERNELS_OF(name, ...)                               \
  KERNEL(name##_float32, FunctionArguments, map<__VA_ARGS__, float>) \
  KERNEL(name##_float64, FunctionArguments, map<__VA_ARGS__, double>)
#define FUNCTION_KERNELS() FOR_EACH_FUNCTION(FUNCTION_KERNELS_OF)

#define SOFTMAX_KERNELS()                                             \
  KERNEL(softmax_rows_float32, SoftmaxArguments, softmax_rows<float>) \
  KERNEL(softmax_rows_float64, SoftmaxArguments, softmax_rows<double>)

#define ALL_KERNELS()                         \
  FOR_EACH_RULE(STEP_KERNELS)                 \
  FOR_EACH_RULE(OPTION_KERNELS)               \
  FOR_EACH_RULE(STORED_KERNELS)               \
  FOR_EACH_RULE(FINGERPRINTED_KERNELS)        \
  FOR_EACH_RULE(STORED_FINGERPRINTED_KERNELS) \
  WORD_KERNELS()                              \
  STORAGE_KERNELS()                           \
  GRADIENT_KERNELS()                          \
  SUM_KERNELS()                               \
  FINGERPRINT_KERNELS()                       \
  BATCHNORM_KERNELS()                         \
  MSE_KERNELS()                               \
  PRODUCT_KERNELS()                           \
  CONVOLUTION_KERNELS()                       \
  LEAF_KERNELS()                              \
  FUNCTION_KERNELS()                          \
  SOFTMAX_KERNELS()
