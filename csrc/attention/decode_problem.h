// What a block of the decoding kernel works on: it finds its row of the batch and its split of the keys from the
// lengths of all rows, by the rules of decode_schedule.h. Only that kernel includes this.
#pragma once

#include "gpu/cuda.h"
//
#include "attention/decode.h"
#include "attention/decode_schedule.h"
#include "gpu/check.h"
#include "gpu/tma.h"

namespace codeshell::attention::decode {

// The kernel's one argument: the maps of the caches, the call, and what follows from it.
struct Parameters {
  gpu::TensorMap k, v;
  AttentionDecode a;
  int64_t capacity;                // tokens that a row of the cache can hold
  int group, row_tiles, box_keys;  // query heads per KV head; tiles of 128 rows; keys of a TMA box
};

// Which row of the batch a block has, and which of its splits.
struct Share {
  int row, split, splits;  // 0 splits: no row is the block's
  int first_slot;          // of the row
  int length;              // of the row, as it stands in cache_seqlens
};

// Whether a row of this length has room for the new tokens. Other lengths are errors of the caller: that row becomes
// NaN.
__device__ __forceinline__ bool has_place(const Parameters& p, int length) {
  return length >= 0 && length <= p.capacity - p.a.new_tokens;
}

// The share of a slot, found by one warp. Rows that are split come first: their splits, of nearly one size, are the
// longest blocks, and the last to run should be short.
__device__ __forceinline__ Share find_share(const Parameters& p, int slot, int lane) {
  constexpr unsigned int kAll = 0xffffffffu;
  const AttentionDecode& a = p.a;
  // A slot for each row, so each row is whole.
  if (a.slots == a.batch) return {slot, 0, 1, slot, a.cache_seqlens[slot]};
  // Tiles of keys that the row's queries see.
  const auto tiles_of_row = [&](int row) {
    const int length = a.cache_seqlens[row], total = has_place(p, length) ? length + a.new_tokens : 0;
    return tile_count(keys_of(0, a.queries - 1, a.queries, total, a.causal, a.window));
  };
  // One row: its splits are the first slots, and further slots have nothing to do.
  if (a.batch == 1) {
    const int tiles = tiles_of_row(0), splits = splits_of(tiles, chunk_of(tiles, 1, a.slots, [](int) { return 0; }));
    return {0, slot, slot < splits ? splits : 0, 0, a.cache_seqlens[0]};
  }
  // Sums over all rows: each lane takes every 32nd, then the warp adds up. All lanes get the sum.
  const auto sum = [&](auto of_row) {
    unsigned int all = 0;
    for (int row = lane; row < a.batch; row += 32) all += static_cast<unsigned int>(of_row(tiles_of_row(row)));
    return static_cast<int>(__reduce_add_sync(kAll, all));
  };
  const auto count = [&](int chunk) { return sum([=](int tiles) { return splits_of(tiles, chunk); }); };
  // The largest split, in tiles: nearly the smallest with which all rows fit the slots.
  const int chunk = chunk_of(sum([](int tiles) { return tiles; }), a.batch, a.slots, count);
  // Slots of split rows come first; whole_rows starts after them. Then 32 rows at a time, by a prefix sum over the
  // lanes, until the row is found that owns this slot.
  int split_rows = 0, whole_rows = sum([=](int tiles) { return tiles > chunk ? splits_of(tiles, chunk) : 0; });
  for (int base = 0; base < a.batch; base += 32) {
    const int row = base + lane, splits = row < a.batch ? splits_of(tiles_of_row(row), chunk) : 0;
    int ends = splits > 1 ? splits : splits << 16;  // two sums at once: slots of split rows, and of whole ones
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int before = __shfl_up_sync(kAll, ends, static_cast<unsigned int>(offset));
      if (lane >= offset) ends += before;
    }
    // The row's first slot; exactly one row owns this block's slot.
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

// blockIdx.x = (slot, KV head, row tile), row tile fastest.
__device__ __forceinline__ int slot_of_block(const Parameters& p) {
  return static_cast<int>(blockIdx.x) / (p.a.kv_heads * p.row_tiles);
}
// Rows of the group in this block: 128, or what is left for the last row tile.
__device__ __forceinline__ int rows_of_block(const Parameters& p) {
  const int left = p.a.queries * p.group - static_cast<int>(blockIdx.x) % p.row_tiles * kBlockRows;
  return left < kBlockRows ? left : kBlockRows;
}

// A block's part of the call.
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
    // A wrong length is taken for an empty row, so that nothing is read or written out of range.
    gpu::check(fits, "cache_seqlens: no place in the cache for a row of this length", length);
    if (!fits) length = 0;
    total = fits ? length + p.a.new_tokens : 0;
    all_rows = p.a.queries * p.group;
    first_row = row_tile * kBlockRows;
    rows = rows_of_block(p);
    by_rows = rows > kWarpgroupRows;
    // Keys that some row of the block sees, and those of its split.
    keys = keys_of(first_row / p.group, (first_row + rows - 1) / p.group, p.a.queries, total, p.a.causal, p.a.window);
    tiles = tiles_of(keys, share.split, share.splits);
  }

  // Index of a partial result, in the order slot, KV head, row of the group.
  __device__ __forceinline__ int64_t partial(const Parameters& p, int split, int row_of_group) const {
    return (static_cast<int64_t>(share.first_slot + split) * p.a.kv_heads + head) * all_rows + row_of_group;
  }
};

}  // namespace codeshell::attention::decode
