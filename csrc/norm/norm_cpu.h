// The sum of a residual stream and a branch, and LayerNorm of that sum, in one pass over memory; and its gradients. The
// arithmetic is in norm_cpu.inc. All matrices are contiguous, (rows, width), fp32 or bf16; sums are fp32. The bits do
// not depend on `threads`.
#pragma once

#include <cstdint>

namespace codeshell::norm {

// stream = x + branch; normed = (stream - mean) rstd weight + bias, with each row's mean and rstd = 1 / sqrt(var + eps).
struct Forward {
  const void* x;        // fp32, or bf16 where `bf16`
  const void* branch;   // as x, or bf16 where `branch_bf16`; null: the stream is x, and `stream` is not written
  void* stream;         // as x
  void* normed;         // fp32, or bf16 where `normed_bf16`
  const float* weight;  // (width,)
  const float* bias;    // (width,)
  float* mean;          // (rows,)
  float* rstd;          // (rows,)
  std::int64_t rows, width;
  float eps;
  bool bf16, branch_bf16, normed_bf16;
};

// The gradients of x and of the branch, which are one matrix unless the branch has another dtype; of weight and bias.
struct Backward {
  const void* grad_stream;  // as stream; null: nothing comes from there
  const void* grad_normed;  // fp32, or bf16 where `normed_bf16`
  const void* stream;       // fp32, or bf16 where `bf16`
  const float* mean;
  const float* rstd;
  const float* weight;
  void* grad_x;        // as stream
  void* grad_branch;   // bf16; null: it is grad_x
  float* partial;      // (sum_chunks(rows), 2, width), scratch; null: no gradients of weight and bias
  float* grad_weight;  // (width,)
  float* grad_bias;
  std::int64_t rows, width;
  bool bf16, normed_bf16;
};

// What is compiled once per instruction set (norm_cpu.inc); csrc/cpu chooses. Rows [first, last); `sums` is (2, width),
// to which a backward pass adds its rows, or null.
struct CpuKernels {
  void (*forward)(const Forward& call, long first, long last);
  void (*backward)(const Backward& call, long first, long last, float* sums);
};
const CpuKernels& cpu_kernels();

// How many partial sums the gradients of weight and bias have: it follows from the rows alone.
std::int64_t sum_chunks(std::int64_t rows);

void forward(const Forward& call, int threads);
void backward(const Backward& call, int threads);

}  // namespace codeshell::norm
