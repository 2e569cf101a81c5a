// Which tile of the output a block computes, and which key blocks it reads. Host and device.
//
// Blocks start in the order of their index as multiprocessors fall free, so this order is the schedule. Tiles with most
// keys come first, so that the blocks that end last are short. And all tiles of one section of keys and values come
// before the next section: a section is what half of the L2 cache holds. In it the query heads of one KV head are side
// by side.
#pragma once

#include <cstdint>

#include "gpu/types.h"

namespace codeshell::attention {

inline constexpr int kTileRows = 128;
inline constexpr int kTileKeys = 128;

struct Schedule {
  int row_blocks;              // of the longest sequence
  int batch, kv_heads, group;  // group: query heads of a KV head
  int section;                 // pairs of sequence and KV head whose keys and values are in the cache together
};

// 128 queries of a head of a sequence.
struct Tile {
  int row_block, head, sequence;
};

// Blocks of the launch.
inline int64_t tiles(const Schedule& s) { return static_cast<int64_t>(s.row_blocks) * s.batch * s.kv_heads * s.group; }

// Sections of half of an H100's L2 cache of 50 MB; queries and output pass through the other half. K and V of one pair
// take 4 bytes per key and column.
inline Schedule schedule_of(int longest_queries, int longest_keys, int batch, int heads, int kv_heads, int dim) {
  constexpr int64_t kCache = int64_t{25} << 20;
  const int64_t pair = int64_t{4} * longest_keys * dim, pairs = static_cast<int64_t>(batch) * kv_heads;
  const int64_t fit = kCache / pair < 1 ? 1 : kCache / pair;
  return {(longest_queries + kTileRows - 1) / kTileRows, batch, kv_heads, heads / kv_heads,
          static_cast<int>(fit < pairs ? fit : pairs)};
}

// Index = section, then row block from last to first, then (sequence, KV head) within the section, then head of the
// group. The last section may hold fewer pairs.
CODESHELL_HOST_DEVICE Tile tile_of(const Schedule& s, int index) {
  const int per_section = s.section * s.group * s.row_blocks;
  const int first_pair = index / per_section * s.section, rest = index % per_section;
  const int pairs_left = s.batch * s.kv_heads - first_pair;
  const int heads_here = (s.section < pairs_left ? s.section : pairs_left) * s.group;
  const int place = rest % heads_here, pair = first_pair + place / s.group;
  return {s.row_blocks - 1 - rest / heads_here, pair % s.kv_heads * s.group + place % s.group, pair / s.kv_heads};
}

// Key blocks [begin, end) hold what a tile's rows see; every row sees all keys of [free_begin, free_end).
struct KeyBlocks {
  int begin, free_begin, free_end, end;
};

CODESHELL_HOST_DEVICE KeyBlocks key_blocks(int row_block, int queries, int keys, bool causal, int window) {
  const int first_row = row_block * kTileRows;
  const int last_row = (first_row + kTileRows < queries ? first_row + kTileRows : queries) - 1;
  const int offset = keys - queries;  // bottom right: row i sees the keys up to i + offset
  // Without a mask: all blocks, of which only a ragged last one needs a mask.
  KeyBlocks blocks = {0, 0, keys / kTileKeys, (keys + kTileKeys - 1) / kTileKeys};
  if (causal) {
    const int most = last_row + offset + 1, least = first_row + offset + 1;  // keys that the last and first row see
    blocks.end = most > 0 ? (most + kTileKeys - 1) / kTileKeys : 0;
    blocks.free_end = least > 0 ? least / kTileKeys : 0;
    // The window starts at `most - window` for the last row, and at `least - window` for the first.
    if (window > 0) {
      if (least > window) blocks.begin = (least - window) / kTileKeys;
      if (most > window) blocks.free_begin = (most - window + kTileKeys - 1) / kTileKeys;
    }
  }
  return blocks;
}

}  // namespace codeshell::attention
