// Decoding attention on a GPU: what a launch takes. The kernel is decode_sm90.cu's; docs/kernels/decode.md explains it.
#pragma once

#include <cstdint>

#include "attention/attention.h"

namespace codeshell {

// A row of the batch has cache_seqlens[row] tokens in the cache, then new_tokens more. Strides of the caches, of q and
// of the new tokens are multiples of 8 as their addresses are of 16 bytes; `out` is contiguous (batch, queries, heads,
// dim).
struct AttentionDecode {
  AttentionTensor q;  // (batch, queries, heads, dim)
  // (batch, page_size, kv_heads, dim), where page_size is the capacity; with a block_table (pages, page_size, …).
  AttentionTensor k_cache, v_cache;
  AttentionTensor k_new, v_new;  // (batch, new_tokens, kv_heads, dim), or null
  void* out;
  float* lse;                  // (batch, heads, queries)
  const int* cache_seqlens;    // on the device
  const int* block_table;      // (batch, pages_a_row) on the device, or null
  int64_t block_table_stride;  // of a row
  const float *cos, *sin;      // (rotary_rows, rotary_half), 16-byte aligned, or null
  float* workspace;            // workspace_floats(); null with one slot per row
  unsigned int* counters;      // plan's count, all 0, as they are left; null with one slot per row
  bool bf16;                   // else fp16
  int batch, queries, heads, kv_heads, dim, new_tokens;
  int pages, page_size, pages_a_row;
  int rotary_rows, rotary_half;  // rotary_half a multiple of 8
  bool interleaved;
  float scale;  // above 0
  bool causal;  // aligned bottom right
  int window;   // a query sees its latest `window` keys; 0 is all of them
  int slots;    // plan's
};

// Every size but new_tokens is at least 1, dim 64 or 128, heads a multiple of kv_heads, page_size of 16 with a table.
gpu::Error launch_attention_decode(const AttentionDecode& arguments, gpu::Stream stream);

}  // namespace codeshell
