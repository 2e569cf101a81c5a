// What surrounds the main kernel of attention's backward pass, and what all three kernels share.
//
//   prepare   delta = rowsum(dO O), and the log-sum-exp in units of log2, padded to whole tiles; dQ's sums set to zero
//   finish    sums of fragments to 16 bits: dQ's, and dK's and dV's where several blocks shared a key block
//
// Both are bound by memory. Every access to O, dO, the sums and the results is 16 bytes wide. Floor: their bytes; not
// run on a GPU.
#pragma once

#include <cmath>

#include "attention/attention.h"
#include "attention/backward_schedule.h"
#include "attention/softmax.h"
#include "gpu/check.h"
#include "gpu/cuda.h"
#include "gpu/vector.h"

namespace codeshell::attention {

// What all kernels of a launch know of its sizes, and where its workspace lies (backward_schedule.h).
struct Sizes {
  const int* cu_seqlens;
  int batch, queries, keys, heads, kv_heads, dim;
  int query_tiles, key_tiles;  // of the longest sequence
  int64_t total_key_tiles;
  float *lse, *delta, *dq, *partial;  // partial: used only if there are splits
  int *tickets, *turns;
  int splits;
};

// A sequence: its place in the tensors, its lengths, and its first tiles in the workspace.
struct Sequence {
  int batch, start, queries, keys, first_query_tile, first_key_tile;

  __device__ __forceinline__ Sequence(const Sizes& s, int sequence)
      : batch(sequence), start(0), queries(s.queries), keys(s.keys) {
    // Packed sequences are one row of the batch, and each starts at its offset.
    if (s.cu_seqlens) {
      batch = 0;
      start = s.cu_seqlens[sequence];
      queries = keys = s.cu_seqlens[sequence + 1] - start;
      gpu::check(start >= 0 && queries >= 0 && start <= s.queries - queries, "cu_seqlens: not within the tokens",
                 start);
      gpu::check(queries <= s.key_tiles * kBlockKeys, "max_seqlen: less than a sequence's tokens", queries);
    }
    first_query_tile = first_tile(sequence, start, queries, s.cu_seqlens != nullptr, query_rows(s.dim));
    first_key_tile = first_tile(sequence, start, keys, s.cu_seqlens != nullptr, kBlockKeys);
  }
};

// A 16-bit tensor (batch, tokens, heads, dim), for reads and writes without TMA. Strides count elements.
struct Rows {
  void* data;
  int64_t batch_stride, token_stride, head_stride;

  template <class T>
  __device__ __forceinline__ T* at(int batch, int token, int head) const {
    return static_cast<T*>(data) + batch * batch_stride + token * token_stride + head * head_stride;
  }
};

inline Rows rows_of(const AttentionTensor& x) { return {x.data, x.batch_stride, x.token_stride, x.head_stride}; }

// prepare

inline constexpr int kPrepareThreads = 256;

struct Prepare {
  Sizes sizes;
  Rows out, grad;
  const float* lse;
  bool deterministic;
};

// A block is a tile of queries of one head. Neighbouring blocks take neighbouring heads, which are side by side in
// memory.
template <class T>
__global__ void __launch_bounds__(kPrepareThreads) prepare(const __grid_constant__ Prepare p) {
  const Sizes& sizes = p.sizes;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  // The tickets of deterministic mode count from 0 in each launch.
  if (block == 0 && thread == 0) *sizes.tickets = 0;
  // Grid: (sequence, tile of queries, head), head fastest.
  const int head = block % sizes.heads, place = block / sizes.heads;
  const Sequence sequence(sizes, place / sizes.query_tiles);
  const int rows = query_rows(sizes.dim), first_row = place % sizes.query_tiles * rows;
  if (first_row >= sequence.queries) return;
  const int64_t unit = static_cast<int64_t>(sequence.first_query_tile + place % sizes.query_tiles) * sizes.heads + head;
  // dQ's sums of the tile: 8192 fp32 zeros, 8 packs of 16 bytes per thread. And nobody has had a turn yet.
#pragma unroll
  for (int i = 0; i < kTileElements / 4 / kPrepareThreads; ++i) {
    gpu::store(sizes.dq + unit * kTileElements + 4 * (i * kPrepareThreads + thread), gpu::Pack<float, 4>{});
  }
  if (p.deterministic && thread < 2) sizes.turns[2 * unit + thread] = 0;
  // delta: 8 or 16 lanes share a row, 8 columns each, and add their parts up by shuffles within the group.
  const int lanes = sizes.dim / 8;
  const int64_t lse_row = sizes.cu_seqlens
                              ? static_cast<int64_t>(head) * sizes.queries + sequence.start
                              : (static_cast<int64_t>(sequence.batch) * sizes.heads + head) * sizes.queries;
  for (int row = thread / lanes; row < rows; row += kPrepareThreads / lanes) {
    const int query = first_row + row;
    float delta = 0.0f;
    if (query < sequence.queries) {
      const int column = thread % lanes * 8;
      // O is not read again; dO is, by the main kernel.
      const auto o = gpu::load_streaming<8>(p.out.at<T>(sequence.batch, sequence.start + query, head) + column);
      const auto g = gpu::load<8>(p.grad.at<T>(sequence.batch, sequence.start + query, head) + column);
#pragma unroll
      for (int i = 0; i < 8; ++i) delta = fmaf(gpu::to_float(o[i]), gpu::to_float(g[i]), delta);
    }
    for (int offset = 1; offset < lanes; offset *= 2) delta += __shfl_xor_sync(0xffffffffu, delta, offset);
    if (thread % lanes == 0) {
      // For rows that see nothing and rows beyond the end it becomes +inf: their probabilities, exp2(c S - inf), are 0.
      const float lse = query < sequence.queries ? p.lse[lse_row + query] : -INFINITY;
      sizes.lse[unit * rows + row] = lse == -INFINITY ? INFINITY : lse * kLog2E;
      sizes.delta[unit * rows + row] = delta;
    }
  }
}

// finish

inline constexpr int kFinishThreads = 128;

struct Finish {
  Sizes sizes;
  Rows dq, dk, dv;
  float scale;
  int dq_blocks;  // the grid's first; the rest are dK's and dV's
};

// Adds `count` fragments of 64 x 64, `stride` numbers apart, multiplies by `factor`, rounds to T, and writes the rows
// of `target` that exist (`rows`). 128 threads.
template <class T>
__device__ __forceinline__ void write_fragment(const float* fragment, int count, int64_t stride, float factor,
                                               T* target, int64_t token_stride, int rows) {
  __shared__ __align__(16) T tile[64 * 64];  // 16-byte chunk c of row r at chunk c ^ (r % 8)
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    // Pack j of the thread is group j of 8 columns: in each of its two rows, 2 columns. All splits, in their order.
    gpu::Pack<float, 4> sum = gpu::load_streaming<4>(fragment + (j * kFinishThreads + thread) * 4);
    for (int i = 1; i < count; ++i) {
      const auto next = gpu::load_streaming<4>(fragment + i * stride + (j * kFinishThreads + thread) * 4);
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] += next[e];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // To the row and column of wgmma's accumulator; the swizzle spreads the chunks of a column over the banks.
      const int row = thread / 32 * 16 + lane / 4 + 8 * half;
      *reinterpret_cast<uint32_t*>(tile + row * 64 + (j ^ row % 8) * 8 + lane % 4 * 2) =
          pack_pair<T>(sum[2 * half] * factor, sum[2 * half + 1] * factor);
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Back in rows: 8 neighbouring threads write the 128 bytes of one row.
    const int row = (i * kFinishThreads + thread) / 8, chunk = thread % 8;
    if (row < rows) {
      gpu::store(target + row * token_stride + chunk * 8, gpu::load<8>(tile + row * 64 + (chunk ^ row % 8) * 8));
    }
  }
}

// A block is a fragment: 64 rows, 64 columns. The grid's first dq_blocks are dQ's; the rest, dK's and dV's, exist only
// with splits.
template <class T>
__global__ void __launch_bounds__(kFinishThreads) finish(const __grid_constant__ Finish p) {
  const Sizes& sizes = p.sizes;
  int block = static_cast<int>(blockIdx.x);
  const bool queries = block < p.dq_blocks;
  if (!queries) block -= p.dq_blocks;
  // dQ's tile is two fragments; dK and dV of a block's keys have a fragment for each 64 keys and 64 columns.
  const int fragments = queries ? 2 : 2 * 2 * (sizes.dim / 64);
  const int heads = queries ? sizes.heads : sizes.kv_heads, tiles = queries ? sizes.query_tiles : sizes.key_tiles;
  int fragment = block % fragments;
  const int head = block / fragments % heads, place = block / fragments / heads, tile = place % tiles;
  const Sequence sequence(sizes, place / tiles);
  if (queries) {
    // At dim 64 the two fragments of a tile are its halves of rows, at dim 128 of columns.
    const int rows = query_rows(sizes.dim);
    const int row = tile * rows + (sizes.dim == 64 ? 64 * fragment : 0), column = sizes.dim == 64 ? 0 : 64 * fragment;
    if (row >= sequence.queries) return;
    const int64_t unit = static_cast<int64_t>(sequence.first_query_tile + tile) * sizes.heads + head;
    write_fragment(sizes.dq + unit * kTileElements + fragment * kFragment, 1, 0, p.scale,
                   p.dq.at<T>(sequence.batch, sequence.start + row, head) + column, p.dq.token_stride,
                   sequence.queries - row);
    return;
  }
  const int half = sizes.dim / 64;  // fragments of 64 keys
  const bool values = fragment >= 2 * half;
  const int64_t unit = (static_cast<int64_t>(sequence.first_key_tile + tile) * sizes.kv_heads + head) * fragments;
  const float* first = sizes.partial + (unit + fragment) * kFragment;
  // Fragments of dK, then of dV; in each, those of the first 64 keys come first.
  if (values) fragment -= 2 * half;
  const int row = tile * kBlockKeys + fragment / half * 64, column = fragment % half * 64;
  if (row >= sequence.keys) return;
  const Rows& target = values ? p.dv : p.dk;
  write_fragment(first, sizes.splits, sizes.total_key_tiles * sizes.kv_heads * fragments * kFragment,
                 values ? 1.0f : p.scale, target.at<T>(sequence.batch, sequence.start + row, head) + column,
                 target.token_stride, sequence.keys - row);
}

}  // namespace codeshell::attention
