// How decoding is shared among blocks. The host knows shapes alone and fixes the slots: blocks of each KV head and row
// tile, for all rows of the batch together. Each block reads all lengths and finds how many of the slots each row gets,
// and so its own row and split: longer rows are split more. Host and device.
#pragma once

#include <cstdint>

#include "gpu/types.h"

namespace codeshell::attention::decode {

inline constexpr int kKeyTile = 64;
inline constexpr int kWarpgroupRows = 64;
inline constexpr int kBlockRows = 2 * kWarpgroupRows;

// Rows are the queries of a KV head's group: row = token * group + head of the group.
struct Plan {
  int row_tiles;     // of kBlockRows rows
  int slots;         // at least one for each row of the batch
  int64_t counters;  // one for each batch row, KV head and row tile
};

inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of the batch beyond which no slots are to spare: then there are many blocks, and each would read many lengths.
inline constexpr int kMostBalanced = 256;

// For rows of one length, as many splits as fill the multiprocessors: the fewest whose blocks fill their waves within
// 5 % of the best. But no more than can have a tile for each consumer; nor more than balance what a split saves and
// costs: a split's keys are read in time ~ keys / splits, and its partial results, written and read by the one that
// combines, take ~ rows x splits; least in all at sqrt(keys / rows).
// Where that is no split at all, some slots are to spare for long rows among short ones: two waves of blocks at most,
// which end at once if there are none, and fewer than rows, so that rows of one length stay whole.
inline Plan plan_of(int batch, int kv_heads, int rows, int64_t capacity, int multiprocessors) {
  const int row_tiles = static_cast<int>(ceiling(rows, kBlockRows));
  const int64_t blocks = static_cast<int64_t>(batch) * kv_heads * row_tiles;
  const int64_t tile_rows = rows < kBlockRows ? rows : kBlockRows;
  int64_t most = ceiling(ceiling(capacity, kKeyTile), 2);
  while (most > 1 && (most - 1) * (most - 1) * tile_rows >= capacity) --most;
  const auto filled = [&](int64_t splits) {
    return static_cast<double>(blocks * splits) /
           static_cast<double>(ceiling(blocks * splits, multiprocessors) * multiprocessors);
  };
  double best = 0;
  for (int64_t splits = 1; splits <= most && (splits == 1 || blocks * splits <= 8 * multiprocessors); ++splits)
    best = filled(splits) > best ? filled(splits) : best;
  int64_t splits = 1;
  while (filled(splits) < 0.95 * best) ++splits;
  int64_t slots = batch * splits;
  if (splits == 1 && batch <= kMostBalanced && most > 1) {
    const int64_t spare = ceiling(2 * multiprocessors, static_cast<int64_t>(kv_heads) * row_tiles);
    slots += spare < batch - 1 ? spare : batch - 1;
  }
  if (batch * ceiling(capacity, kKeyTile) > INT32_MAX) slots = batch;  // beyond what the shares are computed in
  return {row_tiles, static_cast<int>(slots), blocks};
}

// The number of slots that may have partial results; split rows take the first slots. A split row has two slots or
// more, of which all but one are beyond the row's own: at most twice as many as there are slots beyond the batch.
CODESHELL_HOST_DEVICE int partial_slots(int batch, int slots) {
  const int beyond = slots - batch;
  return 2 * beyond < slots ? 2 * beyond : slots;
}

// fp32 numbers in the workspace of a launch: an output of dim and a log-sum-exp for each row and slot with partial
// results.
inline int64_t workspace_floats(int batch, int kv_heads, int rows, int dim, const Plan& plan) {
  return static_cast<int64_t>(partial_slots(batch, plan.slots)) * kv_heads * rows * (dim + 1);
}

// Keys [begin, end) that rows of tokens first to last see at all; each of them sees every key of [free_begin,
// free_end).
struct Keys {
  int begin, free_begin, free_end, end;
};

CODESHELL_HOST_DEVICE Keys keys_of(int first_token, int last_token, int queries, int total, bool causal, int window) {
  Keys keys = {0, 0, total, total};
  if (!causal) return keys;
  const int shift = total - queries;  // token i sees the keys up to shift + i
  keys.free_end = shift + first_token + 1, keys.end = shift + last_token + 1;
  if (window > 0) keys.begin = keys.free_end - window, keys.free_begin = keys.end - window;
  if (keys.begin < 0) keys.begin = 0;
  if (keys.free_begin < 0) keys.free_begin = 0;
  if (keys.end < 0) keys.end = 0;
  return keys;
}

CODESHELL_HOST_DEVICE int tile_count(const Keys& keys) {
  return (keys.end + kKeyTile - 1) / kKeyTile - keys.begin / kKeyTile;
}

// Into how many splits a row of so many tiles falls: of `chunk` tiles at most, each with one at least.
CODESHELL_HOST_DEVICE int splits_of(int tiles, int chunk) { return tiles > chunk ? (tiles + chunk - 1) / chunk : 1; }

// The tiles of a split, so few that the splits of all rows fit the slots; nearly the fewest, and two (one per consumer)
// at least. `total` is of all rows; count(chunk) is the sum of splits_of over them.
template <class Count>
CODESHELL_HOST_DEVICE int chunk_of(int total, int batch, int slots, Count count) {
  constexpr int kSteps = 4;  // a sixteenth of the way between the bounds
  const auto ceil = [](int a, int b) { return a > 2 * b ? (a - 1) / b + 1 : 2; };
  int low = ceil(total, slots);
  if (batch == 1 || count(low) <= slots) return low;
  int high = ceil(total, slots - batch);  // a row has less than one more than total / chunk
  for (int step = 0; step < kSteps && high - low > 1; ++step) {
    const int middle = low + (high - low) / 2;
    (count(middle) <= slots ? high : low) = middle;
  }
  return high;
}

// The tiles [begin, end) of one of `active` splits; the splits before `active` have at least one each if there is any.
struct Tiles {
  int begin, end, active;
};

CODESHELL_HOST_DEVICE Tiles tiles_of(const Keys& keys, int split, int splits) {
  const int first = keys.begin / kKeyTile, count = tile_count(keys);
  Tiles tiles = {0, 0, (count + 1) / 2};  // two tiles per block, one per consumer, where there are enough splits
  if (tiles.active > splits) tiles.active = splits;
  if (count < 1) tiles.active = 1;
  if (count < 1 || split >= tiles.active) return tiles;
  const int each = count / tiles.active, more = count % tiles.active;
  tiles.begin = first + split * each + (split < more ? split : more);
  tiles.end = tiles.begin + each + (split < more ? 1 : 0);
  return tiles;
}

}  // namespace codeshell::attention::decode
