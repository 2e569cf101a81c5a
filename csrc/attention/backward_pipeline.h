// The main kernel of attention's backward pass except for its arithmetic: what a block does and in what order, where
// its tiles lie in shared memory, and the warps that fetch them and that add dQ to memory. backward_sm90.cu has the
// diagram of the pipeline and the table of its barriers.
#pragma once

#include "attention/backward_passes.h"
#include "attention/backward_schedule.h"
#include "attention/tensor_maps.h"
#include "gpu/cuda.h"
#include "gpu/mbarrier.h"
#include "gpu/semaphore.h"
#include "gpu/tma.h"

namespace codeshell::attention {

// Tiles of Q, and as many of dO, that are loaded or read at one time.
inline constexpr int kStages = 2;
inline constexpr int kConsumers = 2;
inline constexpr int kThreads = (1 + kConsumers) * gpu::kWarpgroup;
inline constexpr int kConsumerWarps = kConsumers * gpu::kWarpgroup / 32;
// Registers of a thread: what ptxas gives every one, and what the roles make of it.
inline constexpr int kRegisters = gpu::registers_at_start(kThreads), kProducerRegisters = 24, kConsumerRegisters = 240;
static_assert(gpu::registers_fit(kProducerRegisters, kConsumerRegisters, kConsumerRegisters));
inline constexpr uint32_t kKeyPanelBytes = kBlockKeys * 128;         // of K and V, and of dS: one row per key
inline constexpr uint32_t kHalfBytes = kKeyPanelBytes / kConsumers;  // one consumer's keys of a panel
inline constexpr uint32_t kTileBytes = kTileElements * 2;            // of Q and dO
inline constexpr uint32_t kFragmentBytes = kFragment * 4;
inline constexpr int kExchange = 1,
                     kOwn = kExchange + 1;  // named barriers: all consumers; one for each, by adding its number

// Offsets in dynamic shared memory, in bytes, in this order: K, V, stages of Q, stages of dO, two buffers of dS, dQ's
// two fragments, stages of the log-sum-exp and of delta. Q, dO, K, V and dS are panels of 64 columns with the 128-byte
// swizzle; all tiles start at multiples of 1024 bytes, as the swizzle requires.
template <int Dim>
struct Layout {
  static constexpr int kRows = query_rows(Dim);
  static constexpr uint32_t kRowPanelBytes = kRows * 128;
  static constexpr uint32_t kKeyBytes = kBlockKeys * Dim * 2;
  static constexpr uint32_t kScoreBytes = kBlockKeys * kRows * 2;  // of dS
  static constexpr uint32_t kSumBytes = kRows * 4;                 // of the log-sum-exp, and of delta
  static constexpr uint32_t kKeys = 0, kValues = kKeyBytes, kQueries = 2 * kKeyBytes;
  static constexpr uint32_t kGradients = kQueries + kStages * kTileBytes;
  static constexpr uint32_t kScores = kGradients + kStages * kTileBytes;
  static constexpr uint32_t kSums = kScores + 2 * kScoreBytes;  // dQ's fragments, fp32, one per consumer
  static constexpr uint32_t kLse = kSums + kConsumers * kFragmentBytes;
  static constexpr uint32_t kDelta = kLse + kStages * kSumBytes;
  static constexpr uint32_t kBytes = kDelta + kStages * kSumBytes;
};

// The kernel's one argument, in constant memory. dk_rows and dv_rows serve tiles that TMA may not store.
struct Parameters {
  gpu::TensorMap q, k, v, grad, dk, dv;
  Sizes sizes;
  BackwardSchedule schedule;
  Rows dk_rows, dv_rows;
  float scale;
  bool causal;
  int window;
  bool deterministic;
};

// In static shared memory.
struct Barriers {
  gpu::Mbarrier key, value;
  gpu::Mbarrier query_full[kStages], query_empty[kStages], gradient_full[kStages], gradient_empty[kStages];
  gpu::Mbarrier sum_full[kConsumers], sum_empty[kConsumers];
};

// What a block does: its keys, the tiles of queries that it visits, and its query heads (first_head and `heads` more).
struct Problem {
  KeyTile tile;
  Sequence sequence;
  QueryTiles range;
  int first_head, heads, visits;

  __device__ __forceinline__ Problem(const Parameters& p, int index)
      : tile(tile_of(p.schedule, index)), sequence(p.sizes, tile.sequence) {
    // The group of the KV head, or the split's part of it.
    heads = p.sizes.heads / p.sizes.kv_heads / p.schedule.splits;
    first_head = (tile.kv_head * p.schedule.splits + tile.split) * heads;
    range = query_tiles(tile.key_block, sequence.queries, sequence.keys, p.causal, p.window, query_rows(p.sizes.dim));
    visits = (range.end - range.begin) * heads;
  }
  __device__ __forceinline__ int first_key() const { return tile.key_block * kBlockKeys; }
};

// The order of the visits, the same for all roles: tiles from last to first, and for each tile all heads of the block.
// A visit's number gives its stage, and the parity of the phase in which that stage is filled.
struct Visit {
  int number, tile, head;

  __device__ __forceinline__ explicit Visit(const Problem& problem) : number(0), tile(problem.range.end - 1), head(0) {}
  __device__ __forceinline__ void advance(const Problem& problem) {
    ++number;
    if (++head == problem.heads) head = 0, --tile;
  }
  __device__ __forceinline__ int stage() const { return number % kStages; }
  __device__ __forceinline__ uint32_t parity() const { return static_cast<uint32_t>(number / kStages & 1); }
};

// A unit of the workspace is a tile of queries of one head: index of lse, delta, dq and turns.
__device__ __forceinline__ int64_t unit_of(const Parameters& p, const Problem& problem, const Visit& visit) {
  return static_cast<int64_t>(problem.sequence.first_query_tile + visit.tile) * p.sizes.heads + problem.first_head +
         visit.head;
}

// K or V of the block, once: panel by panel, and evicted first, because each split of the group reads them only once.
template <int Dim>
__device__ __forceinline__ void load_keys(uint8_t* tile, const gpu::TensorMap& map, gpu::Mbarrier& full,
                                          const Problem& problem) {
  full.arrive_expect(Layout<Dim>::kKeyBytes);
#pragma unroll
  for (int panel = 0; panel < Dim / kPanel; ++panel) {
    gpu::tma_load<gpu::CacheHint::kEvictFirst>(tile + panel * kKeyPanelBytes, map, full, panel * kPanel,
                                               problem.tile.kv_head, problem.sequence.start + problem.first_key(),
                                               problem.sequence.batch);
  }
}

// One stage: a tile of Q or dO by TMA, and its row of the log-sum-exp or of delta by a plain bulk copy. Both add their
// bytes to the same phase of `full`.
template <int Dim>
__device__ __forceinline__ void load_queries(uint8_t* tile, float* sums, const gpu::TensorMap& map, const float* source,
                                             gpu::Mbarrier& full, gpu::Mbarrier& empty, const Parameters& p,
                                             const Problem& problem, const Visit& visit) {
  constexpr int kRows = Layout<Dim>::kRows;
  // The phase before this fill: on a fresh barrier it counts as ended, so the first round does not wait.
  empty.wait(visit.parity() ^ 1);
  full.arrive_expect(kTileBytes + Layout<Dim>::kSumBytes);
#pragma unroll
  for (int panel = 0; panel < Dim / kPanel; ++panel) {
    gpu::tma_load(tile + panel * Layout<Dim>::kRowPanelBytes, map, full, panel * kPanel,
                  problem.first_head + visit.head, problem.sequence.start + visit.tile * kRows, problem.sequence.batch);
  }
  gpu::bulk_load(sums, source + unit_of(p, problem, visit) * kRows, Layout<Dim>::kSumBytes, full);
}

// Warp 0, one lane: everything that a block reads, in the order in which the consumers need it. The log-sum-exp comes
// with Q, and delta with dO.
template <int Dim>
__device__ __forceinline__ void produce(const Parameters& p, const Problem& problem, Barriers& barriers,
                                        uint8_t* shared) {
  using L = Layout<Dim>;
  const auto sums = [&](uint32_t offset, int stage) {
    return reinterpret_cast<float*>(shared + offset) + stage * L::kRows;
  };
  const auto load_query = [&](const Visit& visit) {
    const int stage = visit.stage();
    load_queries<Dim>(shared + L::kQueries + static_cast<uint32_t>(stage) * kTileBytes, sums(L::kLse, stage), p.q,
                      p.sizes.lse, barriers.query_full[stage], barriers.query_empty[stage], p, problem, visit);
  };
  const auto load_gradient = [&](const Visit& visit) {
    const int stage = visit.stage();
    load_queries<Dim>(shared + L::kGradients + static_cast<uint32_t>(stage) * kTileBytes, sums(L::kDelta, stage),
                      p.grad, p.sizes.delta, barriers.gradient_full[stage], barriers.gradient_empty[stage], p, problem,
                      visit);
  };
  // The first visit: K and Q give S, V and dO give dP.
  Visit visit(problem);
  load_keys<Dim>(shared + L::kKeys, p.k, barriers.key, problem);
  load_query(visit);
  load_keys<Dim>(shared + L::kValues, p.v, barriers.value, problem);
  load_gradient(visit);
  for (visit.advance(problem); visit.number < problem.visits; visit.advance(problem)) {
    // dO first: its stage is given back after dV, Q's only in the visit after, when dK is done.
    load_gradient(visit);
    load_query(visit);
  }
}

// Warps 1 and 2, one lane each: adds one consumer's half of each tile of dQ to the fp32 sums in memory, 16 KiB by one
// bulk copy. Deterministic: in the order of the key blocks, in which the blocks also took their tickets. `turns`
// counts, for each unit and half, the additions that are done.
template <int Dim>
__device__ __forceinline__ void add_queries(const Parameters& p, const Problem& problem, Barriers& barriers,
                                            uint8_t* shared, int half) {
  const auto* source =
      reinterpret_cast<const float*>(shared + Layout<Dim>::kSums + static_cast<uint32_t>(half) * kFragmentBytes);
  for (Visit visit(problem); visit.number < problem.visits; visit.advance(problem)) {
    const int64_t unit = unit_of(p, problem, visit);
    int* turn = p.sizes.turns + 2 * unit + half;
    if (p.deterministic) {
      // Wait until all key blocks before this one that see the tile have added theirs. The fence orders what follows by
      // the asynchronous proxy, the addition, after the wait.
      gpu::semaphore_wait(
          turn, problem.tile.key_block - first_key_block(visit.tile, problem.sequence.queries, problem.sequence.keys,
                                                         p.causal, p.window, Layout<Dim>::kRows));
      gpu::fence_async_proxy_global();
    }
    // The consumer has written its fragment; add it, and give the memory back as soon as it has been read.
    barriers.sum_full[half].wait(static_cast<uint32_t>(visit.number & 1));
    gpu::bulk_reduce_add(p.sizes.dq + unit * kTileElements + half * kFragment, source, kFragmentBytes);
    gpu::bulk_commit();
    gpu::bulk_wait_read<0>();
    barriers.sum_empty[half].arrive();
    if (p.deterministic) {
      // The addition itself must be over, not only its reading, before the next block may add.
      gpu::bulk_wait<0>();
      gpu::fence_async_proxy_global();
      gpu::semaphore_add(turn);
    }
  }
}

}  // namespace codeshell::attention
