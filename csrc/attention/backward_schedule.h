// Which keys a block of attention's backward pass owns, which tiles of queries it visits, and where its workspace lies.
// Host and device.
//
// A block owns 128 keys of one KV head and visits every tile of queries that sees one of them, of every query head of
// the group (or of a part of it): tiles from last to first, the heads of a tile one after another. So blocks of one KV
// head that run together sweep the same queries together, whatever their length, and read them from the L2 cache; and
// their additions to one tile of dQ come in the order of their keys without waiting, but for a start one after another.
// Blocks start in the order of their index, first keys first: with a causal mask those see most queries.
#pragma once

#include <cstdint>

#include "gpu/types.h"

namespace codeshell::attention {

// Keys of a block.
inline constexpr int kBlockKeys = 128;
inline constexpr int kTileElements = 8192;           // of a tile of queries: 64 rows of 128, 128 of 64
inline constexpr int kFragment = kTileElements / 2;  // 64 x 64 values in the order of wgmma's accumulators
CODESHELL_HOST_DEVICE constexpr int query_rows(int dim) { return kTileElements / dim; }

struct BackwardSchedule {
  int key_blocks;  // of the longest sequence
  int batch, kv_heads;
  int splits;  // blocks that share a key block, each with its part of the query group
};

struct KeyTile {
  int key_block, kv_head, sequence, split;
};

// Blocks of the launch.
CODESHELL_HOST_DEVICE int64_t tiles(const BackwardSchedule& s) {
  return static_cast<int64_t>(s.key_blocks) * s.batch * s.kv_heads * s.splits;
}

// The tile of a block: all KV heads, sequences and splits of one key block before the next key block.
CODESHELL_HOST_DEVICE KeyTile tile_of(const BackwardSchedule& s, int index) {
  const int side_by_side = s.batch * s.kv_heads * s.splits;
  const int place = index % side_by_side, pair = place / s.splits;
  return {index / side_by_side, pair % s.kv_heads, pair / s.kv_heads, place % s.splits};
}

// Tiles [begin, end) of queries of which at least one sees a key of the block.
struct QueryTiles {
  int begin, end;
};

CODESHELL_HOST_DEVICE QueryTiles query_tiles(int key_block, int queries, int keys, bool causal, int window, int rows) {
  const int first = key_block * kBlockKeys;
  const int last = (first + kBlockKeys < keys ? first + kBlockKeys : keys) - 1;
  const int offset = keys - queries;  // bottom right: row i sees the keys up to i + offset
  // Rows [begin, end): from the first that sees the block's first key to the last whose window reaches its last key.
  int begin = 0, end = queries;
  if (causal) {
    if (first > offset) begin = first - offset;
    if (window > 0 && last - offset + window < end) end = last - offset + window;
  }
  if (begin >= end) return {0, 0};
  return {begin / rows, (end + rows - 1) / rows};
}

// Whether every query of the tile sees every key of the block.
CODESHELL_HOST_DEVICE bool sees_all(int key_block, int tile, int queries, int keys, bool causal, int window, int rows) {
  const int first_key = key_block * kBlockKeys, last_key = first_key + kBlockKeys - 1;
  const int first_row = tile * rows, last_row = (first_row + rows < queries ? first_row + rows : queries) - 1;
  const int offset = keys - queries;
  // A ragged last block has keys that nobody sees. Else the first row must see the last key, and the last row the
  // first.
  if (last_key >= keys) return false;
  return !causal || (last_key <= first_row + offset && (window == 0 || first_key > last_row + offset - window));
}

// The first key block that visits a tile of queries. Additions to the tile's dQ come from this block, the next, …
CODESHELL_HOST_DEVICE int first_key_block(int tile, int queries, int keys, bool causal, int window, int rows) {
  const int first_key = tile * rows + keys - queries - window + 1;
  return causal && window > 0 && first_key > 0 ? first_key / kBlockKeys : 0;
}

// Into how many parts the query groups are split. One, unless too few blocks leave multiprocessors idle: a split costs
// a pass over fp32 partial sums of dK and dV, so it has to save a tenth. Time is counted in visits of a tile.
inline int splits_of(int queries, int keys, int batch, int heads, int kv_heads, int dim, bool causal, int window,
                     int multiprocessors) {
  const int group = heads / kv_heads, pairs = batch * kv_heads;
  if (window >= keys) window = 0;  // hides none, and sums with it stay small
  // Visits of each key block of one KV head; every sequence is taken to be as long as the longest.
  int64_t total = 0, longest = 0, shortest = INT32_MAX;
  for (int n = 0; n * kBlockKeys < keys; ++n) {
    const QueryTiles range = query_tiles(n, queries, keys, causal, window, query_rows(dim));
    const int64_t visits = static_cast<int64_t>(range.end - range.begin) * group;
    total += visits * pairs;
    longest = visits > longest ? visits : longest;
    shortest = visits < shortest ? visits : shortest;
  }
  const int64_t blocks = static_cast<int64_t>((keys + kBlockKeys - 1) / kBlockKeys) * pairs;
  // A lower bound: the mean over the multiprocessors, the longest block, full waves of the shortest block.
  const auto time = [&](int splits) {
    const int64_t waves = (blocks * splits + multiprocessors - 1) / multiprocessors;
    int64_t most = (total + multiprocessors - 1) / multiprocessors;
    if (longest / splits > most) most = longest / splits;
    if (waves * shortest / splits > most) most = waves * shortest / splits;
    return most;
  };
  // Only divisors of the group, so that all splits have equally many heads.
  int best = 1;
  for (int splits = 2; splits <= group; ++splits) {
    if (group % splits == 0 && 10 * time(splits) < 9 * time(best)) best = splits;
  }
  return best;
}

// The workspace, in bytes from its start. Tiles of queries are counted over all sequences (first_query_tile), and lie
// head by head: lse and delta (tiles, heads, rows), dq (tiles, heads, 2 fragments), the counter of tickets and then
// turns (tiles, heads, 2). The partial sums of dK and dV, if there are splits: (splits, tiles of keys, kv_heads, 2,
// 2 dim / 64 fragments).
struct BackwardWorkspace {
  int64_t lse, delta, dq, turns, partial, bytes;
};

// Tiles of all sequences together; packed, an upper bound that needs no lengths.
inline int64_t query_tile_count(int queries, int batch, bool packed, int dim) {
  const int rows = query_rows(dim);
  return packed ? queries / rows + batch : static_cast<int64_t>((queries + rows - 1) / rows) * batch;
}
inline int64_t key_tile_count(int keys, int batch, bool packed) {
  return packed ? keys / kBlockKeys + batch : static_cast<int64_t>((keys + kBlockKeys - 1) / kBlockKeys) * batch;
}

// Where a sequence's tiles of `rows` start. Packed: start / rows + sequence is never less than the tiles of the
// sequences before, because each of those has at most one tile that is not whole.
CODESHELL_HOST_DEVICE int first_tile(int sequence, int start, int tokens, bool packed, int rows) {
  return packed ? start / rows + sequence : (tokens + rows - 1) / rows * sequence;
}

inline BackwardWorkspace workspace_of(int queries, int keys, int batch, int heads, int kv_heads, int dim, bool packed,
                                      int splits) {
  // A unit is a tile of queries of one head. Parts start at multiples of 128 bytes, as bulk copies and packs need them.
  const int64_t units = query_tile_count(queries, batch, packed, dim) * heads;
  const auto aligned = [](int64_t bytes) { return (bytes + 127) / 128 * 128; };
  BackwardWorkspace w{};
  w.delta = aligned(units * query_rows(dim) * 4);
  w.dq = w.delta + aligned(units * query_rows(dim) * 4);
  w.turns = w.dq + units * kTileElements * 4;
  w.partial = w.turns + aligned((1 + 2 * units) * 4);  // the counter of tickets, then two turns per unit
  w.bytes = w.partial;
  if (splits > 1) w.bytes += splits * key_tile_count(keys, batch, packed) * kv_heads * 2 * kBlockKeys * dim * 4;
  return w;
}

}  // namespace codeshell::attention
