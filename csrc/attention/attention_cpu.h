// Attention on the CPU: forward and backward, grouped key/value heads, packed sequences, causal, window, and rotary
// embedding applied as queries and keys are read. fp32 or bf16 tensors, fp32 inside.
#pragma once

#include <cstdint>

namespace codeshell::attention {

// One tensor (tokens, heads, dim): the last dimension is contiguous, strides count elements.
struct View {
  void* data = nullptr;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
};

struct Problem {
  View q, k, v, out;
  float* lse = nullptr;                         // (heads, query tokens)
  View grad_out, grad_q, grad_k, grad_v;        // backward only
  bool bf16 = false;                            // all tensors but lse; otherwise fp32
  const std::int32_t* query_offsets = nullptr;  // (sequences + 1): tokens of a sequence, in q and out
  const std::int32_t* key_offsets = nullptr;    // (sequences + 1): the same in k and v
  std::int64_t sequences = 0;
  std::int64_t query_tokens = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t dim = 0;  // a multiple of 16, at most 256
  float scale = 1;
  bool causal = true;          // aligned bottom right: the last query sees the last key
  std::int64_t window = 0;     // keys a query may see at most; 0 is no limit
  const float* cos = nullptr;  // (rows, dim / 2) or null for no rotation; half-split pairs
  const float* sin = nullptr;
  const std::int32_t* positions = nullptr;  // (query_tokens): rows of cos and sin; queries and keys are the same tokens
};

// What is compiled once per instruction set (attention_cpu.inc): one task, which is all queries of one sequence that
// read one key/value head. csrc/cpu chooses.
struct CpuKernels {
  void (*attend)(const Problem&, long sequence, long kv, float* scratch);
  void (*differentiate)(const Problem&, long sequence, long kv, float* scratch);
};
const CpuKernels& cpu_kernels();

// Both share (sequence, key/value head) pairs between threads; the bits do not depend on `threads`.
void forward(const Problem& problem, int threads);
void backward(const Problem& problem, int threads);

}  // namespace codeshell::attention
