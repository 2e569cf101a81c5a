// Bias and GELU over a matrix; the arithmetic is in gelu_cpu.inc. x, y, dy and grad are contiguous (rows, columns) of
// fp32 or bf16, bias and sums are fp32 (columns). An output may be its input's memory. The bits do not depend on
// `threads`.
#pragma once

#include <cstdint>

namespace codeshell::activation {

// What is compiled once per instruction set (gelu_cpu.inc); csrc/cpu chooses. n elements of one row, fp32 or bf16.
struct CpuKernels {
  // y = gelu(x + bias); a null bias is 0.
  void (*gelu)(const void* x, const float* bias, void* y, long n, bool bf16);
  // grad = dy gelu'(x + bias), in fp32 also added to sums unless they are null.
  void (*gelu_backward)(const void* x, const float* bias, const void* dy, void* grad, float* sums, long n, bool bf16);
};
const CpuKernels& cpu_kernels();

struct Shape {
  std::int64_t rows, columns;
  bool bf16;
};

void gelu(const void* x, const float* bias, void* y, Shape shape, int threads);

// Fills `sums` with the gradient of the bias, unless it is null; `partial` is then fp32 (sum_chunks, columns), without
// any particular content.
void gelu_backward(const void* x, const float* bias, const void* dy, void* grad, float* partial, float* sums,
                   Shape shape, int threads);

// Into how many chunks the rows are cut, each with its own sums. The shape alone decides.
std::int64_t sum_chunks(std::int64_t rows, std::int64_t columns);

}  // namespace codeshell::activation
