// GELU over whole tensors; the arithmetic is in gelu_cpu.inc. x, y, dy and grad are contiguous, n elements of fp32 or
// bf16, and an output may be its input's memory. The bits do not depend on `threads`.
#pragma once

#include <cstdint>

namespace codeshell::activation {

// What is compiled once per instruction set (gelu_cpu.inc); csrc/cpu chooses. n elements of fp32, or of bf16.
struct CpuKernels {
  void (*gelu)(const void* x, void* y, long n, bool bf16);
  void (*gelu_backward)(const void* x, const void* dy, void* grad, long n, bool bf16);
};
const CpuKernels& cpu_kernels();

void gelu(const void* x, void* y, std::int64_t n, bool bf16, int threads);
void gelu_backward(const void* x, const void* dy, void* grad, std::int64_t n, bool bf16, int threads);

}  // namespace codeshell::activation
