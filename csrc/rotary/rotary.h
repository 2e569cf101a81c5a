// Rotary position embedding (Su et al. 2021): what a call is, for the CUDA kernel and for the CPU's.
//
// One call walks the tokens of up to three tensors of heads: q and k alone, or q, k and v on their way out of (or, in
// the backward pass, back into) the fused projection, with its bias. The heads of a token share one row of cosines and
// sines. Plain data: no CUDA, no torch.
#pragma once

#include <cstdint>

#include "gpu/launch.h"

namespace codeshell::rotary {

enum class Type : std::int32_t { fp32, bf16, fp16 };

// The heads (batch, seq, heads, dim) of one tensor, read at `from` and written at `to`, which may be one place. Strides
// count elements; the last dimension is contiguous.
struct Heads {
  const void* from = nullptr;
  void* to = nullptr;
  std::int64_t from_batch = 0, from_token = 0, from_head = 0;
  std::int64_t to_batch = 0, to_token = 0, to_head = 0;
  std::int64_t count = 0;
  bool turns = true;  // v does not
};

// Rows of cosines or sines, shared by all batches or (batch_stride) one table per batch.
struct Table {
  const void* data = nullptr;
  std::int64_t batch_stride = 0, row_stride = 0;
};

struct Arguments {
  Heads parts[3];
  std::int32_t part_count = 0;
  std::int64_t heads = 0;  // of all parts
  std::int64_t batch = 0, seq = 0;
  std::int64_t dim = 0;
  std::int64_t pairs = 0;  // that turn; the dimensions from 2 pairs on do not
  Type type = Type::fp32;  // of all parts

  Table cos, sin;
  Type table_type = Type::fp32;
  std::int64_t rows = 0;
  std::int64_t table_step = 1;  // columns between neighbouring pairs: 2 in doubled tables of interleaved pairs

  // Row of token t of batch b: positions[b * position_batch + t] if given, else offset + t, counted from the start of
  // its sequence where cu_seqlens (sequences + 1,) is given. A row outside the tables turns its token into NaN.
  const void* positions = nullptr;
  bool positions_are_64_bits = false;
  std::int64_t position_batch = 0;
  const std::int32_t* cu_seqlens = nullptr;
  std::int64_t sequences = 0;
  std::int64_t offset = 0;

  bool interleaved = false;  // pairs (0, 1), (2, 3) …; otherwise (0, pairs), (1, pairs + 1) …
  bool conjugate = false;    // turn back: the gradient

  const void* bias = nullptr;  // (heads * dim), added before the turn
  Type bias_type = Type::fp32;

  // The bias gradient: what is written, summed over all tokens before it is rounded. Every chunk of tokens sums into a
  // row of `partial_sums` (sum_chunks(tokens), heads * dim) and the rows are summed in order, so the bits depend on
  // nothing but the shape.
  float* sums = nullptr;  // (heads * dim)
  float* partial_sums = nullptr;
};

// Chunks of the bias gradient: enough for every multiprocessor of a large GPU, few enough to be a small share of the
// traffic (3 % at 16k tokens of CodeShell-7B).
constexpr std::int64_t sum_chunks(std::int64_t tokens) {
  const std::int64_t chunks = (tokens + 31) / 32;
  return chunks < 256 ? chunks : 256;
}

// On the device that is current; neither synchronises nor allocates. dim is at most 1024.
gpu::Error launch_rotary(const Arguments& arguments, gpu::Stream stream);

// On the CPU, on up to `threads` of torch's threads; the bits do not depend on `threads`. dim is at most 1024.
void rotate(const Arguments& arguments, int threads);

}  // namespace codeshell::rotary
