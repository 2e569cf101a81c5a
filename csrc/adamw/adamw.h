// AdamW over many tensors: what a step takes, for the CPU (adamw_cpu.cpp) and for CUDA (adamw.cu). No CUDA, no torch.
#pragma once

#include <cmath>
#include <cstdint>

#include "gpu/launch.h"
#include "gpu/types.h"

namespace codeshell::adamw {

enum class Type : std::uint8_t { fp32, bf16, fp16 };

// One parameter and its state, dense and in one memory order. `gradient` is null where there is none: nothing of that
// tensor is then touched. 64 bytes: the CUDA table is an array of these.
struct Tensor {
  void* param;
  void* gradient;
  void* exp_avg;
  void* exp_avg_sq;
  float* master;  // null unless Scheme::master
  float* step;    // updates so far; the step itself counts it up
  std::int64_t size;
  std::int64_t stream;  // of random numbers: the parameter's place in the optimizer
};

// A piece of a tensor that one CUDA block, or one iteration of a CPU task, works on: kChunk elements from piece *
// kChunk, or those that are left.
struct Chunk {
  std::int32_t tensor;
  std::int32_t piece;
};

constexpr std::int64_t kChunk = 8192;

// What the arrays of all tensors of one launch hold. With `master` the parameter is only written (rounded from the
// master). `stochastic` rounds what is kept in bf16 up or down at random, so that its mean is right.
struct Scheme {
  Type param;
  Type gradient;
  Type moment;
  bool master;
  bool stochastic;
};

// The scalars of a launch. Pointers may be null; they are read where the kernel runs, so the host need not wait.
struct Settings {
  double lr, beta1, beta2, eps, weight_decay;
  double log_beta1, log_beta2;  // logarithms of the betas, for the bias corrections
  std::uint64_t seed;           // of stochastic rounding
  bool maximize;
  const float* lr_pointer;  // instead of lr
  const float* grad_scale;  // gradients are divided by it, and written back so (as torch's fused step does)
  const float* found_inf;   // not 0: nothing is touched
  const float* factor;      // gradients are multiplied by it (clipping); not written back
};

// What one tensor's update needs, in fp32 from fp64.
struct Coefficients {
  float gradient;  // multiplies it: clipping factor / grad_scale, negative for maximize
  float unscale;   // 1 / grad_scale
  float decay;     // 1 - lr * weight_decay
  float first;     // 1 - beta1
  float beta2;
  float second;      // 1 - beta2
  float step_size;   // lr / (1 - beta1^t)
  float root_scale;  // 1 / sqrt(1 - beta2^t)
  float eps;
};

// `step`: the number of this update, from 1. 1 - beta^t by expm1, which loses nothing for a beta near 1.
CODESHELL_HOST_DEVICE Coefficients coefficients_of(const Settings& s, double step) {
  // What is on the device wins over the scalars.
  const double lr = s.lr_pointer ? static_cast<double>(*s.lr_pointer) : s.lr;
  const double factor = s.factor ? static_cast<double>(*s.factor) : 1.0;
  const double scale = s.grad_scale ? static_cast<double>(*s.grad_scale) : 1.0;
  Coefficients c;
  c.gradient = static_cast<float>((s.maximize ? -factor : factor) / scale);
  c.unscale = static_cast<float>(1.0 / scale);
  c.decay = static_cast<float>(1.0 - lr * s.weight_decay);
  c.first = static_cast<float>(1.0 - s.beta1);
  c.beta2 = static_cast<float>(s.beta2);
  c.second = static_cast<float>(1.0 - s.beta2);
  c.step_size = static_cast<float>(lr / -expm1(step * s.log_beta1));
  c.root_scale = static_cast<float>(1.0 / sqrt(-expm1(step * s.log_beta2)));
  c.eps = static_cast<float>(s.eps);
  return c;
}

// The keys of a hash (adamw_math.h) that is to differ between seeds, steps, parameters, and each 2^32 of elements.
struct Keys {
  std::uint32_t a, b;
};

CODESHELL_HOST_DEVICE Keys keys_of(std::uint64_t seed, std::uint64_t step, std::int64_t stream, std::uint64_t high) {
  // Each part changes all 64 bits of the hash of the parts before it.
  std::uint64_t x = seed;
  const std::uint64_t parts[3] = {step, static_cast<std::uint64_t>(stream), high};
  for (std::uint64_t part : parts) {  // the finaliser of MurmurHash3 over each part in turn
    x = (x ^ part) + 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
    x ^= x >> 33;
  }
  return {static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(x >> 32)};
}

// A step on the device. The tables lie there: tensors, and chunks that cover them. `finished` is a zeroed counter, zero
// again afterwards.
struct StepArguments {
  const Tensor* tensors;
  std::int64_t tensor_count;
  const Chunk* chunks;
  std::int64_t chunk_count;
  unsigned int* finished;
  Scheme scheme;
  Settings settings;
};

// The gradients' sum of squares on the device, to sums[slot]. Where slot is the last of slot_count, also their norm and
// the clipping factor min(1, max_norm / (norm + 1e-6)), over all slots, to result[0] and result[1].
struct NormArguments {
  const Tensor* tensors;
  const Chunk* chunks;
  std::int64_t chunk_count;
  unsigned int* finished;
  Type gradient;
  double* partials;  // chunk_count, scratch
  double* sums;
  int slot, slot_count;
  float max_norm;
  float* result;
};

// Both take the device that is current, and neither synchronises nor allocates.
gpu::Error launch_adamw(const StepArguments& arguments, gpu::Stream stream);
gpu::Error launch_gradient_norm(const NormArguments& arguments, gpu::Stream stream);

}  // namespace codeshell::adamw
