// The side of decoding that feeds the consumers: where tiles lie in shared memory, the ring of stages and its barriers,
// the producer warp that fills it, and new tokens on their way to the cache. decode_sm90.cu has the diagram of the
// pipeline and the table of the barriers.
#pragma once

#include "attention/decode_problem.h"
#include "attention/decode_schedule.h"
#include "attention/tensor_maps.h"
#include "gpu/check.h"
#include "gpu/cuda.h"
#include "gpu/mbarrier.h"
#include "gpu/tma.h"
#include "gpu/vector.h"
#include "gpu/wgmma.h"

namespace codeshell::attention::decode {

#define ROTARY_INLINE __host__ __device__ __forceinline__
#include "rotary/rotary_math.h"

inline constexpr int kConsumers = 2;
inline constexpr int kConsumerThreads = kConsumers * gpu::kWarpgroup;
inline constexpr int kThreads = kConsumerThreads + 32;
inline constexpr int kScores = kKeyTile / 2;  // of a thread: 64 rows x 64 keys over 128 threads
inline constexpr int kSteps = kKeyTile / 16;  // k-steps of the product with V
inline constexpr int kPanelBytes = kKeyTile * 128;
static_assert(kWarpgroupRows == kKeyTile, "tiles of Q, K and V have one shape");
inline constexpr int kBlock = 1, kOwn = 2;  // named barriers: of all consumers; of each, by adding its number

// Dynamic shared memory: a tile of Q for each consumer, then the ring, whose stages are a tile of K and one of V. A
// tile is 64 rows in Dim / 64 panels of 128-byte rows, with the 128-byte swizzle.
template <int Dim>
inline constexpr uint32_t kTileBytes = kKeyTile * Dim * 2;
// Per multiprocessor: 25 MB in all, where 3.2 MB in flight hide the latency.
inline constexpr uint32_t kRingBytes = 192 * 1024;
template <int Dim>
constexpr int kStages = kRingBytes / (2 * kTileBytes<Dim>);
template <int Dim>
constexpr uint32_t kSharedBytes = kConsumers * kTileBytes<Dim> + kRingBytes;

// In static shared memory, with what the producer's first look at the lengths tells the block.
template <int Dim>
struct Barriers {
  gpu::Mbarrier key_full[kStages<Dim>], value_full[kStages<Dim>], empty[kStages<Dim>];
  Share share;
  int wrong;  // a length that does not fit, or an entry of the block table that is no page
  int last;   // this block arrived last of its splits
};

// Where a role is in the ring: the stage, and the parity of the phase in which it is filled. A consumer that reads
// every other tile advances by two.
struct Ring {
  int stage;
  uint32_t parity;

  template <int Stages>
  __device__ __forceinline__ void advance(int steps) {
    stage += steps;
    if (stage >= Stages) stage -= Stages, parity ^= 1;
  }
};

// The head of a token: Dim numbers.
template <class T>
__device__ __forceinline__ const T* at(const AttentionTensor& x, int batch, int token, int head) {
  return static_cast<const T*>(x.data) + batch * x.batch_stride + token * x.token_stride + head * x.head_stride;
}

// Eight values of a head, the chunk-th, turned by the angles of a position if there are tables. A position that the
// tables do not have gives NaN. Columns from 2 x rotary_half on do not turn.
template <class T>
__device__ __forceinline__ gpu::Pack<T, 8> turned(const AttentionDecode& a, const T* head, int chunk, int position) {
  auto x = gpu::load<8>(head + 8 * chunk);
  const int half = a.rotary_half, first = 8 * chunk;
  if (!a.cos || first >= 2 * half) return x;
  if (position >= a.rotary_rows) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = gpu::from_float<T>(NAN);
    return x;
  }
  // The first column of the angles: interleaved pairs are neighbours, half-split partners are `half` apart.
  const bool second = first >= half;
  const int column = a.interleaved ? first / 2 : second ? first - half : first;
  const float *cos = a.cos + static_cast<int64_t>(position) * half + column,
              *sin = a.sin + static_cast<int64_t>(position) * half + column;
  // Interleaved: the chunk holds four whole pairs.
  if (a.interleaved) {
    const auto c = gpu::load<4>(cos), s = gpu::load<4>(sin);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float u = gpu::to_float(x[2 * i]), w = gpu::to_float(x[2 * i + 1]);
      turn(u, w, c[i], s[i]);
      x[2 * i] = gpu::from_float<T>(u), x[2 * i + 1] = gpu::from_float<T>(w);
    }
    return x;
  }
  // Half-split: the chunk holds one half of eight pairs, so the partners are read too and their results dropped.
  const auto other = gpu::load<8>(head + first + (second ? -half : half));
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const auto c = gpu::load<4>(cos + 4 * part), s = gpu::load<4>(sin + 4 * part);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float mine = gpu::to_float(x[4 * part + i]), partner = gpu::to_float(other[4 * part + i]);
      float u = second ? partner : mine, w = second ? mine : partner;
      turn(u, w, c[i], s[i]);
      x[4 * part + i] = gpu::from_float<T>(second ? w : u);
    }
  }
  return x;
}

// One lane's box of a tile: box_keys (16, 32 or 64) neighbouring keys, which lie in one page. A tile has 64 / box_keys
// boxes; further lanes have none.
struct Box {
  int page, row;
  bool wanted, cached;  // holds a key that is seen; holds one that is in the cache

  __device__ __forceinline__ Box(const Parameters& p, const Problem& problem, int tile, int lane)
      : page(0), row(0), wanted(false), cached(false) {
    // Only boxes with a key that some row of the block sees: other entries of the table are not even read.
    const int key = tile * kKeyTile + lane * p.box_keys;
    if (lane * p.box_keys >= kKeyTile || tile >= problem.tiles.end) return;
    if (key + p.box_keys <= problem.keys.begin || key >= problem.keys.end) return;
    // The page and the row in it. Without a table, each row of the batch is one page.
    const int number = key / p.a.page_size;
    row = key - number * p.a.page_size;
    page = p.a.block_table ? p.a.block_table[problem.row * p.a.block_table_stride + number] : problem.row;
    wanted = true, cached = key < problem.length;
  }
  __device__ __forceinline__ bool exists(const Parameters& p) const { return page >= 0 && page < p.a.pages; }
};

// The producer warp: all tiles of the block's split through the ring. Every lane looks up its own box; one elected lane
// issues the copies of all. K and V of a tile share a stage and have a barrier each.
template <int Dim>
__device__ __forceinline__ void load_tiles(const Parameters& p, const Problem& problem, Barriers<Dim>& barriers,
                                           uint8_t* ring_memory, int lane) {
  const bool elected = gpu::elect_one();
  const uint32_t box_bytes = static_cast<uint32_t>(p.box_keys) * Dim * 2;
  Ring ring{0, 0};
  Box next(p, problem, problem.tiles.begin, lane);
  for (int tile = problem.tiles.begin; tile < problem.tiles.end; ++tile, ring.advance<kStages<Dim>>(1)) {
    const Box box = next;
    next = Box(p, problem, tile + 1, lane);  // the table is read ahead, while this tile waits for its stage
    gpu::check(!box.wanted || box.exists(p), "block_table: no page of the cache", box.page);
    // Boxes with keys in the cache are loaded. New tokens alone need no load: consumers take them from k_new and v_new.
    const unsigned int loads = __ballot_sync(0xffffffffu, box.wanted && box.cached && box.exists(p));
    const bool wrong = __any_sync(0xffffffffu, box.wanted && !box.exists(p));
    // The phase before this fill: on a fresh barrier it counts as ended, so the first round does not wait.
    barriers.empty[ring.stage].wait(ring.parity ^ 1);
    if (elected && wrong) barriers.wrong = 1;
    // TMA counts the bytes of whole boxes, beyond a tensor's end too. With no box at all the phase ends by the arrival.
    const uint32_t bytes = static_cast<uint32_t>(__popc(loads)) * box_bytes;
    uint8_t* stage = ring_memory + static_cast<uint32_t>(ring.stage) * 2 * kTileBytes<Dim>;
#pragma unroll
    for (int values = 0; values < 2; ++values) {
      gpu::Mbarrier& full = values ? barriers.value_full[ring.stage] : barriers.key_full[ring.stage];
      if (elected) full.arrive_expect(bytes);
      // One box after another: its page and row come from the lane that looked it up.
      for (unsigned int left = loads; left; left &= left - 1) {
        const int i = __ffs(static_cast<int>(left)) - 1;
        const int page = __shfl_sync(0xffffffffu, box.page, i), row = __shfl_sync(0xffffffffu, box.row, i);
        if (!elected) continue;
        uint8_t* target = stage + values * kTileBytes<Dim> + i * p.box_keys * 128;
#pragma unroll
        for (int panel = 0; panel < Dim / kPanel; ++panel) {
          gpu::tma_load(target + panel * kPanelBytes, values ? p.v : p.k, full, panel * kPanel, problem.head, row,
                        page);
        }
      }
    }
  }
}

// The new tokens to the cache, keys rotated. By one block per row and KV head. Nobody reads them there during the
// launch: blocks that see them take them from where they came.
template <int Dim, class T>
__device__ __forceinline__ void append(const Parameters& p, const Problem& problem, int lane) {
  constexpr int kChunks = Dim / 8;
  for (int i = lane; i < p.a.new_tokens * kChunks; i += 32) {
    const int token = i / kChunks, chunk = i % kChunks, key = problem.length + token;
    const int number = key / p.a.page_size, row = key - number * p.a.page_size;
    const int page = p.a.block_table ? p.a.block_table[problem.row * p.a.block_table_stride + number] : problem.row;
    gpu::check(page >= 0 && page < p.a.pages, "block_table: no page of the cache", page);
    if (page < 0 || page >= p.a.pages) continue;
    const auto k = turned(p.a, at<T>(p.a.k_new, problem.row, token, problem.head), chunk, key);
    gpu::store(const_cast<T*>(at<T>(p.a.k_cache, page, row, problem.head)) + 8 * chunk, k);
    gpu::store(const_cast<T*>(at<T>(p.a.v_cache, page, row, problem.head)) + 8 * chunk,
               gpu::load<8>(at<T>(p.a.v_new, problem.row, token, problem.head) + 8 * chunk));
  }
}

}  // namespace codeshell::attention::decode
