// What a block of the decoding kernel works on: it finds its row of the batch and its split of the keys from the
// lengths of all rows, by the rules of decode_schedule.h. For decode_sm90.cu alone.
#pragma once

#include "gpu/cuda.h"
//
#include "attention/decode.h"
#include "attention/decode_schedule.h"
#include "gpu/check.h"
#include "gpu/tma.h"

namespace codeshell::attention::decode {

struct Parameters {
  gpu::TensorMap k, v;
  AttentionDecode a;
  int64_t capacity;
  int group, row_tiles, box_keys;
};

// Which row of the batch a block has, and which of its splits.
struct Share {
  int row, split, splits;  // 0 splits: no row is the block's
  int first_slot;          // of the row
  int length;              // of the row, as it stands in cache_seqlens
};

__device__ __forceinline__ bool has_place(const Parameters& p, int length) {
  return length >= 0 && length <= p.capacity - p.a.new_tokens;
}

// The share of a slot, found by one warp. Rows that are split come first: their splits, of nearly one size, are the
// longest blocks, and the last to run should be short.
__device__ __forceinline__ Share find_share(const Parameters& p, int slot, int lane) {
  constexpr unsigned int kAll = 0xffffffffu;
  const AttentionDecode& a = p.a;
  if (a.slots == a.batch) return {slot, 0, 1, slot, a.cache_seqlens[slot]};
  const auto tiles_of_row = [&](int row) {
    const int length = a.cache_seqlens[row], total = has_place(p, length) ? length + a.new_tokens : 0;
    return tile_count(keys_of(0, a.queries - 1, a.queries, total, a.causal, a.window));
  };
  if (a.batch == 1) {
    const int tiles = tiles_of_row(0), splits = splits_of(tiles, chunk_of(tiles, 1, a.slots, [](int) { return 0; }));
    return {0, slot, slot < splits ? splits : 0, 0, a.cache_seqlens[0]};
  }
  const auto sum = [&](auto of_row) {
    unsigned int all = 0;
    for (int row = lane; row < a.batch; row += 32) all += static_cast<unsigned int>(of_row(tiles_of_row(row)));
    return static_cast<int>(__reduce_add_sync(kAll, all));
  };
  const auto count = [&](int chunk) { return sum([=](int tiles) { return splits_of(tiles, chunk); }); };
  const int chunk = chunk_of(sum([](int tiles) { return tiles; }), a.batch, a.slots, count);
  int split_rows = 0, whole_rows = sum([=](int tiles) { return tiles > chunk ? splits_of(tiles, chunk) : 0; });
  for (int base = 0; base < a.batch; base += 32) {
    const int row = base + lane, splits = row < a.batch ? splits_of(tiles_of_row(row), chunk) : 0;
    int ends = splits > 1 ? splits : splits << 16;  // two sums at once: slots of split rows, and of whole ones
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int before = __shfl_up_sync(kAll, ends, static_cast<unsigned int>(offset));
      if (lane >= offset) ends += before;
    }
    const int first = (splits > 1 ? split_rows + (ends & 0xffff) : whole_rows + (ends >> 16)) - splits;
    const unsigned int owner = __ballot_sync(kAll, slot >= first && slot < first + splits);
    if (owner) {
      const int source = __ffs(static_cast<int>(owner)) - 1, first_slot = __shfl_sync(kAll, first, source);
      return {base + source, slot - first_slot, __shfl_sync(kAll, splits, source), first_slot,
              a.cache_seqlens[base + source]};
    }
    const int last = __shfl_sync(kAll, ends, 31);
    split_rows += last & 0xffff, whole_rows += last >> 16;
  }
  return {0, 0, 0, 0, 0};
}

__device__ __forceinline__ int slot_of_block(const Parameters& p) {
  return static_cast<int>(blockIdx.x) / (p.a.kv_heads * p.row_tiles);
}
__device__ __forceinline__ int rows_of_block(const Parameters& p) {
  const int left = p.a.queries * p.group - static_cast<int>(blockIdx.x) % p.row_tiles * kBlockRows;
  return left < kBlockRows ? left : kBlockRows;
}

// A block's part.
struct Problem {
  Share share;
  int row_tile, head, row;  // head: of the keys; row: of the batch
  int length, total;        // tokens in the cache, and with the new ones
  bool fits;
  int all_rows, first_row, rows;  // of the group: all, and the block's
  bool by_rows;                   // each consumer has rows of its own; else all rows, and every other tile
  Keys keys;
  Tiles tiles;

  __device__ __forceinline__ Problem(const Parameters& p, const Share& a_share) : share(a_share) {
    const int index = static_cast<int>(blockIdx.x);
    row_tile = index % p.row_tiles, head = index / p.row_tiles % p.a.kv_heads;
    row = share.row, length = share.length;
    fits = has_place(p, length);
    gpu::check(fits, "cache_seqlens: no place in the cache for a row of this length", length);
    if (!fits) length = 0;
    total = fits ? length + p.a.new_tokens : 0;
    all_rows = p.a.queries * p.group;
    first_row = row_tile * kBlockRows;
    rows = rows_of_block(p);
    by_rows = rows > kWarpgroupRows;
    keys = keys_of(first_row / p.group, (first_row + rows - 1) / p.group, p.a.queries, total, p.a.causal, p.a.window);
    tiles = tiles_of(keys, share.split, share.splits);
  }

  // Of a partial result, in the order slot, KV head, row of the group.
  __device__ __forceinline__ int64_t partial(const Parameters& p, int split, int row_of_group) const {
    return (static_cast<int64_t>(share.first_slot + split) * p.a.kv_heads + head) * all_rows + row_of_group;
  }
};

}  // namespace codeshell::attention::decode
