// Attention on a GPU: what a launch takes. The kernels are forward_sm90.cu's and backward_sm90.cu's;
// docs/kernels/attention.md explains them.
#pragma once

#include <cstdint>

#include "gpu/launch.h"

namespace codeshell {

// (batch, tokens, heads, dim), dim contiguous; strides in elements, multiples of 8 as the address is of 16 bytes.
struct AttentionTensor {
  void* data;
  int64_t batch_stride, token_stride, head_stride;
};

// Dense: q and out (batch, queries, heads, dim), k and v (batch, keys, kv_heads, dim). Packed (cu_seqlens not null):
// one row of the same four dimensions, `queries` = `keys` tokens in all, `batch` sequences of at most `longest`.
struct AttentionForward {
  AttentionTensor q, k, v, out;
  float* lse;             // (batch, heads, queries), or packed (heads, queries)
  const int* cu_seqlens;  // on the device, batch + 1
  bool bf16;              // else fp16
  int batch, queries, keys, longest, heads, kv_heads, dim;
  float scale;  // above 0
  bool causal;  // aligned bottom right
  int window;   // a query sees its latest `window` keys; 0 is all of them
};

// Every size is at least 1, dim 64 or 128, heads a multiple of kv_heads.
gpu::Error launch_attention_forward(const AttentionForward& arguments, gpu::Stream stream);

// The sizes and the mask as of the forward pass, whose output and log-sum-exp `out` and `lse` are; grad is of `out`.
struct AttentionBackward {
  AttentionTensor q, k, v, out, grad, dq, dk, dv;
  const float* lse;
  const int* cu_seqlens;
  void* workspace;  // of attention_backward_workspace bytes, a multiple of 128; what is in it does not matter
  bool bf16;
  int batch, queries, keys, longest, heads, kv_heads, dim;
  float scale;
  bool causal;
  int window;
  bool deterministic;  // the same bits of dq every time; those of dk and dv are anyway
};

int64_t attention_backward_workspace(const AttentionBackward& arguments);  // of which it reads the sizes and the mask
gpu::Error launch_attention_backward(const AttentionBackward& arguments, gpu::Stream stream);

}  // namespace codeshell
