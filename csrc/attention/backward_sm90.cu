// Backward attention for sm_90a: dQ, dK and dV of O = softmax(scale Q Kᵀ) V. A block owns 128 keys of one KV head and
// visits the tiles of queries that see them, of all query heads of the group. So dK and dV stay in registers: no
// atomics on them, and the same bits every time. dQ is added to fp32 sums in memory by bulk copies that reduce.
//
//   dim   queries x keys   shared memory of the tiles, KiB                                           registers
//   64    128 x 128        K 16, V 16, Q 2 x 16, dO 2 x 16, dS 2 x 32, dQ 32, sums 2: 194            producer 24,
//   128   64 x 128         K 32, V 32, Q 2 x 16, dO 2 x 16, dS 2 x 16, dQ 32, sums 1: 193            consumers 240
//
// 384 threads, one block per multiprocessor. Warpgroup 0 loads (warp 0) and adds dQ to memory (warps 1 and 2);
// warpgroups 1 and 2 are the consumers, each with 64 of the keys. "sums" are the log-sum-exp and delta of the queries.
//
// The pipeline, one visit after another. S of a visit is there when the visit starts:
//
//   warp 0    TMA       K Q0 V dO0 | dO1 Q1                                  | dO2 Q2 …
//   consumer  products  S0         | dP0 ~~  dV0 ~~~~~~~~   dQ0 dK0 S1 ~~~~~ | dP1 ~~  dV1 …
//             softmax              |   P0        dS0  |                      |   P1 …
//             memory               |               dS0 to both   dQ0 to warp | …
//   warps 1, 2                     |                                         | add dQ0 to the sums in memory
//
// S and dP are computed with keys as rows: then P and dS go from accumulator to operand of dV += Pᵀ dO and dK += dSᵀ Q
// in registers. dQ = dS K sums over the keys of both consumers, so they exchange dS through shared memory, and each
// computes half of the tile: 64 of its columns at dim 128, 64 of its rows at dim 64.
//
// Who arrives on a barrier (in one phase), and who waits for it:
//
//   key, value                one lane of warp 0, and the bytes             both consumers, once
//   query_full[stage]         one lane of warp 0; bytes of Q and lse        both consumers, before S
//   gradient_full[stage]      one lane of warp 0; bytes of dO and delta     both consumers, before dP
//   query_empty, gradient_…   one lane of each of the 8 consumer warps      warp 0, before it loads
//   sum_full[c]               one lane of each of consumer c's 4 warps      warp 1 + c, before it adds
//   sum_empty[c]              one lane of warp 1 + c                        consumer c, before it writes dQ
//   named kExchange           all 256 consumer threads                      themselves: dS of both is there, once per
//                                                                           visit; at the end, K has been read
//   named kOwn + c            the four warps of consumer c                  themselves
//
// Floor: 10 x pairs of query and key that see each other x dim FLOP per head, at 790 TFLOP/s. Measured: not run on a
// GPU.

#include "gpu/cuda.h"
//
#include "attention/attention.h"
#include "attention/backward_passes.h"
#include "attention/backward_pipeline.h"
#include "attention/backward_schedule.h"
#include "attention/softmax.h"
#include "attention/tensor_maps.h"
#include "gpu/barrier.h"
#include "gpu/check.h"
#include "gpu/launch.h"
#include "gpu/vector.h"
#include "gpu/wgmma.h"

namespace codeshell {
namespace attention {
namespace {

// A consumer warpgroup. Fragments per thread, in the layout of wgmma's accumulators (gpu/wgmma.h); kRows is the number
// of queries in a tile, 128 at dim 64 and 64 at dim 128:
//   s, dp    64 keys x kRows queries: scores, then P in place; dP, then dS in place
//   dq       64 x 64, this consumer's half of the tile of dQ
//   dk, dv   64 keys x Dim, summed over all visits
template <int Dim, class T>
struct Consumer {
  using L = Layout<Dim>;
  static constexpr int kRows = L::kRows, kSteps = kRows / 16;
  // How many k-steps of the product with dO run under the arithmetic of dS: as many as there are registers for. With
  // two or more, nvcc reports that it has too few (C7512) and serialises all products.
  static constexpr int kEarly = 1;

  const Parameters& p;
  const Problem& problem;
  Barriers& barriers;
  uint8_t* shared;
  int consumer, thread, first_key;  // first_key: the thread's first of two, 8 apart, in the sequence
  uint32_t base;                    // of the dynamic memory, in the shared window
  float c;                          // from scores to exponents of 2
  float s[kRows / 2], dp[kRows / 2], dq[32], dk[Dim / 2], dv[Dim / 2];

  __device__ __forceinline__ Consumer(const Parameters& parameters, const Problem& a_problem, Barriers& b,
                                      uint8_t* memory)
      : p(parameters),
        problem(a_problem),
        barriers(b),
        shared(memory),
        consumer(gpu::warpgroup_index() - 1),
        thread(static_cast<int>(threadIdx.x) % gpu::kWarpgroup),
        first_key(problem.first_key() + consumer * 64 + thread / 32 * 16 + thread % 32 / 4),
        base(gpu::shared_address(memory)),
        c(parameters.scale * kLog2E) {
    // All products on dK and dV accumulate, so they start from zeros, pinned as registers before the first product.
#pragma unroll
    for (int i = 0; i < Dim / 2; ++i) dk[i] = dv[i] = 0.0f;
    gpu::wgmma_pin(dk);
    gpu::wgmma_pin(dv);
  }

  static __device__ __forceinline__ uint32_t tile_offset(uint32_t tiles, int stage) {
    return tiles + static_cast<uint32_t>(stage) * kTileBytes;
  }

  // S = K Qᵀ or dP = V dOᵀ, 64 keys x kRows queries: from the consumer's rows of K or V and a tile of Q or dO. Both are
  // K-major, with the head's columns as depth: 32 bytes of a panel per k-step.
  __device__ __forceinline__ void issue_scores(float (&d)[kRows / 2], uint32_t keys, uint32_t queries) {
    const uint64_t a = gpu::descriptor(base + keys + static_cast<uint32_t>(consumer) * kHalfBytes);
    const uint64_t b = gpu::descriptor(base + queries);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Dim / 16; ++k) {
      const uint32_t within = k % (kPanel / 16) * 32, panel = k / (kPanel / 16);
      gpu::wgmma<kRows, T>(d, a + gpu::descriptor_step(panel * kKeyPanelBytes + within),
                           b + gpu::descriptor_step(panel * L::kRowPanelBytes + within), k > 0);
    }
    gpu::wgmma_commit();
  }

  // dV += Pᵀ dO or dK += dSᵀ Q: 64 keys x kRows queries in registers times a tile of dO or Q, whose queries are rows,
  // so MN-major. A k-step is 16 queries, 2048 bytes of a panel. Issues the k-steps [First, End) as one group.
  template <int First, int End>
  __device__ __forceinline__ void issue_sums(float (&d)[Dim / 2], const uint32_t (&a)[kSteps][4], uint32_t queries) {
    const uint64_t b = gpu::descriptor(base + queries, 1024, L::kRowPanelBytes);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = First; k < End; ++k) {
      gpu::wgmma<Dim, T, gpu::Major::kMn>(d, a[k], b + gpu::descriptor_step(2048u * k), true);
    }
    gpu::wgmma_commit();
  }

  // Where dS of a visit lies: two buffers in turn. While a consumer writes dS of one visit, the other may still read dS
  // of the visit before for its dQ; it cannot lag further, because kExchange comes once per visit.
  __device__ __forceinline__ uint32_t score_offset(int index) const {
    return L::kScores + static_cast<uint32_t>(index & 1) * L::kScoreBytes;
  }

  // The consumer's 64 x 64 of dQ = dS K, over all 128 keys: of dS a panel of 64 queries, of K a panel of 64 columns.
  // Both have keys as rows, so both are MN-major. At dim 64 the consumers take different queries, at dim 128 different
  // columns.
  __device__ __forceinline__ void issue_queries(int index) {
    const uint32_t own = static_cast<uint32_t>(consumer) * kKeyPanelBytes;
    const uint64_t a = gpu::descriptor(base + score_offset(index) + (Dim == 64 ? own : 0));
    const uint64_t b = gpu::descriptor(base + L::kKeys + (Dim == 64 ? 0 : own));
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kBlockKeys / 16; ++k) {
      gpu::wgmma<64, T, gpu::Major::kMn, gpu::Major::kMn>(dq, a + gpu::descriptor_step(2048u * k),
                                                          b + gpu::descriptor_step(2048u * k), k > 0);
    }
    gpu::wgmma_commit();
  }

  // After a wait: this warp has read the stage, or written its part. One arrival per warp.
  __device__ __forceinline__ void release(gpu::Mbarrier& empty) {
    if (thread % 32 == 0) empty.arrive();
  }

  // Zeros in the rows of a tile from `rows` on. The last box of a packed sequence also holds the first rows of the next
  // sequence, and a product with 0 does not silence a NaN. Both consumers write the same zeros, so that neither waits
  // for the other.
  __device__ __forceinline__ void clear(uint32_t tile, uint32_t panel_bytes, int rows, int tile_rows) {
    if (!p.sizes.cu_seqlens || rows >= tile_rows) return;
    constexpr int kChunks = Dim / 8;
    for (int i = rows * kChunks + thread; i < tile_rows * kChunks; i += gpu::kWarpgroup) {
      uint8_t* chunk = shared + tile + static_cast<uint32_t>(i % kChunks / 8) * panel_bytes + i / kChunks * 128;
      gpu::store(chunk + i % 8 * 16, gpu::Pack<uint8_t, 16>{});
    }
    // From the generic proxy, in which threads write, to the asynchronous one, in which wgmma reads.
    gpu::fence_async_proxy();
    gpu::barrier_sync(kOwn + consumer, gpu::kWarpgroup);
  }
  // K or V, once per block.
  __device__ __forceinline__ void wait_keys(gpu::Mbarrier& full, uint32_t tile) {
    full.wait(0);
    clear(tile, kKeyPanelBytes, problem.sequence.keys - problem.first_key(), kBlockKeys);
  }
  // Q or dO of a visit.
  __device__ __forceinline__ void wait_queries(gpu::Mbarrier (&full)[kStages], uint32_t tiles, const Visit& visit) {
    full[visit.stage()].wait(visit.parity());
    clear(tile_offset(tiles, visit.stage()), L::kRowPanelBytes, problem.sequence.queries - visit.tile * kRows, kRows);
  }

  // Which queries of the tile see each of the thread's two keys, as columns of the tile: [begin, end).
  __device__ __forceinline__ void seen_by(int tile, Columns (&seen)[2]) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int key = first_key + 8 * row, offset = problem.sequence.keys - problem.sequence.queries;
      int begin = 0, end = problem.sequence.queries;
      if (p.causal) {
        // Aligned bottom right: the last query sees the last key.
        begin = key - offset;
        if (p.window > 0) end = begin + p.window;
      }
      // A key beyond the end is seen by none.
      if (key >= problem.sequence.keys) end = begin;
      seen[row] = {begin - tile * kRows, end - tile * kRows};
    }
  }

  // P = exp2(c S - lse), in place; lse is in units of log2, one value per query, that is per column. Lane l has columns
  // 8 j + 2 (l % 4) + {0, 1}.
  __device__ __forceinline__ void probabilities_of(const Visit& visit, bool masked) {
    const auto* lse = reinterpret_cast<const float*>(shared + L::kLse) + visit.stage() * kRows + 2 * (thread % 4);
#pragma unroll
    for (int j = 0; j < kRows / 8; ++j) {
      const auto base2 = gpu::load<2>(lse + 8 * j);
#pragma unroll
      for (int i = 0; i < 4; ++i) s[4 * j + i] = exp2_fast(fmaf(s[4 * j + i], c, -base2[i % 2]));
    }
    if (masked) {
      Columns seen[2];
      seen_by(visit.tile, seen);
      fill_unseen(s, seen, 2 * (thread % 4), 0.0f);
    }
  }

  // dS = P (dP - delta), in place of dP.
  __device__ __forceinline__ void gradients_of(const Visit& visit, bool masked) {
    const auto* delta = reinterpret_cast<const float*>(shared + L::kDelta) + visit.stage() * kRows + 2 * (thread % 4);
#pragma unroll
    for (int j = 0; j < kRows / 8; ++j) {
      const auto d = gpu::load<2>(delta + 8 * j);
#pragma unroll
      for (int i = 0; i < 4; ++i) dp[4 * j + i] = s[4 * j + i] * (dp[4 * j + i] - d[i % 2]);
    }
    // P is 0 there already, but dP of an unseen query may be NaN, and 0 x NaN is NaN.
    if (masked) {
      Columns seen[2];
      seen_by(visit.tile, seen);
      fill_unseen(dp, seen, 2 * (thread % 4), 0.0f);
    }
  }

  // dS in 16 bits to shared memory: one row per key, panels of 64 queries, swizzled as wgmma reads it. After the
  // barrier dS of both consumers is there.
  __device__ __forceinline__ void exchange(const uint32_t (&gradients)[kSteps][4], int index) {
    // The first of the thread's two keys.
    const int row = consumer * 64 + thread / 32 * 16 + thread % 32 / 4;
    // A tile lies at a multiple of 1024, so the chunk's swizzle may be applied to the whole offset.
    const uint32_t start = score_offset(index) + static_cast<uint32_t>(row * 128 + row % 8 * 16 + thread % 4 * 4);
    // Register r of k-step k: the 8 queries 16 k + 8 (r / 2), of key row + 8 (r % 2), which is 1024 bytes on.
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint32_t chunk = (2 * k + r / 2) % 8;
        *reinterpret_cast<uint32_t*>(shared + (start ^ chunk * 16) + k / 4 * kKeyPanelBytes + r % 2 * 1024) =
            gradients[k][r];
      }
    }
    // wgmma reads it through the asynchronous proxy: each thread fences its own writes before the barrier.
    gpu::fence_async_proxy();
    gpu::barrier_sync(kExchange, kConsumers * gpu::kWarpgroup);
  }

  // Hands dQ's fragment to the warp that adds it to memory. It lies there in the order in which the threads hold it:
  // group j of 4 registers of all 128 threads side by side, so that 16-byte stores have no bank conflicts. `finish`
  // undoes this.
  __device__ __forceinline__ void pass_on(int index) {
    // The fragment of the visit before has been read. On the first visit the barrier is fresh and does not wait.
    barriers.sum_empty[consumer].wait(static_cast<uint32_t>(~index & 1));
    auto* sums = reinterpret_cast<float*>(shared + L::kSums + static_cast<uint32_t>(consumer) * kFragmentBytes);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      gpu::store(sums + (j * gpu::kWarpgroup + thread) * 4,
                 gpu::Pack<float, 4>{{dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]}});
    }
    // The bulk copy reads through the asynchronous proxy. All lanes fence, and then one arrives for the warp.
    gpu::fence_async_proxy();
    __syncwarp();
    release(barriers.sum_full[consumer]);
  }

  // One visit: a tile of queries of one head. S of the visit is there when it starts; S of the next one is there when
  // it ends, unless this is the last. Groups of products complete in the order of their commits, so a wait<n> is for
  // all but the n latest.
  template <bool Last>
  __device__ __forceinline__ void step(const Visit& visit) {
    uint32_t probabilities[kSteps][4], gradients[kSteps][4];
    const int stage = visit.stage();
    const bool masked = !sees_all(problem.tile.key_block, visit.tile, problem.sequence.queries, problem.sequence.keys,
                                  p.causal, p.window, kRows);
    const uint32_t queries = tile_offset(L::kQueries, stage), gradient = tile_offset(L::kGradients, stage);
    // dP = V dOᵀ.
    wait_queries(barriers.gradient_full, L::kGradients, visit);
    issue_scores(dp, L::kValues, gradient);
    // Q of the visit before: its dK was waited for at the end of that visit.
    if (visit.number > 0) release(barriers.query_empty[stage ^ 1]);
    // P, under dP. Its first k-step is issued at once, so that the tensor cores have work after dP.
    probabilities_of(visit, masked);
    to_operand<T, 0, kEarly>(s, probabilities);
    issue_sums<0, kEarly>(dv, probabilities, gradient);
    // dP is there; the first part of dV may still run.
    gpu::wgmma_wait<1>();
    gpu::wgmma_pin(dp);
    // dS = P (dP - delta), under that part. Then the rest of dV.
    gradients_of(visit, masked);
    to_operand<T, kEarly, kSteps>(s, probabilities);
    issue_sums<kEarly, kSteps>(dv, probabilities, gradient);
    // dS to registers for dK, and to shared memory for dQ, under dV.
    to_operand<T, 0, kSteps>(dp, gradients);
    exchange(gradients, visit.number);
    // Two more groups: dQ, then dK.
    issue_queries(visit.number);
    issue_sums<0, kSteps>(dk, gradients, queries);
    gpu::wgmma_wait<2>();  // dV is done: dO may be overwritten
    release(barriers.gradient_empty[stage]);
    // S of the next visit, which will run under the store of dQ.
    if constexpr (!Last) {
      Visit next = visit;
      next.advance(problem);
      wait_queries(barriers.query_full, L::kQueries, next);
      issue_scores(s, L::kKeys, tile_offset(L::kQueries, next.stage()));
    }
    gpu::wgmma_wait<Last ? 1 : 2>();  // dQ is there; dK and the next S may still run
    gpu::wgmma_pin(dq);
    pass_on(visit.number);
    // dK and S. They could be waited for in the next visit, which would let its dP start earlier; but nvcc does not see
    // what such a wait is for (C7514) and serialises all products.
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(s);
  }

  // All visits of the block.
  __device__ __forceinline__ void accumulate() {
    Visit visit(problem);
    // Prologue: S of the first visit, while V is still under way.
    wait_keys(barriers.key, L::kKeys);
    wait_queries(barriers.query_full, L::kQueries, visit);
    issue_scores(s, L::kKeys, tile_offset(L::kQueries, 0));
    wait_keys(barriers.value, L::kValues);
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(s);
    for (; visit.number + 1 < problem.visits; visit.advance(problem)) step<false>(visit);
    step<true>(visit);
    gpu::wgmma_pin(dk);
    gpu::wgmma_pin(dv);
    gpu::barrier_sync(kExchange, kConsumers * gpu::kWarpgroup);  // both have read K for dQ; dK goes there
  }

  // Epilogue: the consumer's 64 rows of dK or dV, times `factor`, rounded to 16 bits. They go through its own rows of
  // the memory of K or V (`area`), swizzled as TMA expects it.
  __device__ __forceinline__ void store(const float (&d)[Dim / 2], float factor, uint32_t area,
                                        const gpu::TensorMap& map, const Rows& rows) {
    const int first_row = problem.first_key() + consumer * 64, row = thread / 32 * 16 + thread % 32 / 4;
    uint8_t* tile = shared + area + static_cast<uint32_t>(consumer) * kHalfBytes;
#pragma unroll
    for (int i = 0; i < Dim / 4; ++i) {
      // Two neighbouring columns of one row: 4 bytes of the 16-byte chunk that the quad fills.
      const int j = i / 2, half = i % 2, chunk = j % 8 ^ row % 8;
      *reinterpret_cast<uint32_t*>(tile + j / 8 * kKeyPanelBytes + (row + 8 * half) * 128 + chunk * 16 +
                                   thread % 4 * 4) = pack_pair<T>(d[2 * i] * factor, d[2 * i + 1] * factor);
    }
    // TMA reads through the asynchronous proxy: all threads fence their writes, then one of them stores.
    gpu::fence_async_proxy();
    gpu::barrier_sync(kOwn + consumer, gpu::kWarpgroup);
    const int left = problem.sequence.keys - first_row, token = problem.sequence.start + first_row;
    // All 64 keys are in the sequence: one box per panel. finish() waits until TMA has read them.
    if (left >= 64) {
      if (thread == 0) {
#pragma unroll
        for (int panel = 0; panel < Dim / kPanel; ++panel) {
          gpu::tma_store(map, tile + panel * kKeyPanelBytes, panel * kPanel, problem.tile.kv_head, token,
                         problem.sequence.batch);
        }
        gpu::bulk_commit();
      }
      return;
    }
    // Some rows are beyond the end, and a box could write into the next packed sequence: 16-byte stores instead.
    constexpr int kChunks = Dim / 8;
    for (int i = thread; i < left * kChunks; i += gpu::kWarpgroup) {
      const int r = i / kChunks, chunk = i % kChunks;
      const T* source =
          reinterpret_cast<const T*>(tile + chunk / 8 * kKeyPanelBytes + r * 128 + (chunk % 8 ^ r % 8) * 16);
      gpu::store(rows.at<T>(problem.sequence.batch, token + r, problem.tile.kv_head) + chunk * 8, gpu::load<8>(source));
    }
  }

  // Where several blocks share the keys: fp32 sums to the workspace, in the order in which the threads hold them. The
  // kernel `finish` adds the splits and undoes the order.
  __device__ __forceinline__ void store_partial(const float (&d)[Dim / 2], int which) {
    constexpr int64_t kConsumerElements = 64 * Dim;
    // Index of (split, tile of keys) in the workspace; within it KV head, dK or dV (`which`), consumer.
    const int64_t place = static_cast<int64_t>(problem.tile.split) * p.sizes.total_key_tiles +
                          problem.sequence.first_key_tile + problem.tile.key_block;
    float* target = p.sizes.partial +
                    ((place * p.sizes.kv_heads + problem.tile.kv_head) * 2 + which) * kConsumers * kConsumerElements +
                    consumer * kConsumerElements + 4 * thread;
#pragma unroll
    for (int j = 0; j < Dim / 8; ++j) {
      gpu::store(target + j * 4 * gpu::kWarpgroup,
                 gpu::Pack<float, 4>{{d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]}});
    }
  }

  // dK and dV leave the registers. S was not scaled, so dK still lacks the scale; dV does not need it.
  __device__ __forceinline__ void finish() {
    if (p.schedule.splits > 1) {
      store_partial(dk, 0);
      store_partial(dv, 1);
      return;
    }
    store(dk, p.scale, L::kKeys, p.dk, p.dk_rows);
    store(dv, 1.0f, L::kValues, p.dv, p.dv_rows);
    if (thread == 0) gpu::bulk_wait_read<0>();
  }
};

// Grid: tiles(p.schedule) blocks. A block's place in the schedule is its index; in deterministic mode it is a ticket,
// so that a block waits only for blocks that have started before it.
template <int Dim, class T>
__global__ void __launch_bounds__(kThreads, 1) backward(const __grid_constant__ Parameters p) {
  __shared__ Barriers barriers;
  __shared__ int ticket;
  auto* shared = gpu::shared_memory<uint8_t>();
  // Fill the barriers, with the arrivals of each phase, and take the ticket.
  if (threadIdx.x == 0) {
    gpu::prefetch_tensor_map(p.k), gpu::prefetch_tensor_map(p.q);
    gpu::prefetch_tensor_map(p.v), gpu::prefetch_tensor_map(p.grad);
    barriers.key.init(1);
    barriers.value.init(1);
    for (int stage = 0; stage < kStages; ++stage) {
      barriers.query_full[stage].init(1);
      barriers.gradient_full[stage].init(1);
      barriers.query_empty[stage].init(kConsumerWarps);
      barriers.gradient_empty[stage].init(kConsumerWarps);
    }
    for (int consumer = 0; consumer < kConsumers; ++consumer) {
      barriers.sum_full[consumer].init(gpu::kWarpgroup / 32);
      barriers.sum_empty[consumer].init(1);
    }
    // Makes the barriers visible to TMA; __syncthreads shows them and the ticket to the other threads.
    gpu::fence_mbarrier_init();
    ticket = p.deterministic ? atomicAdd(p.sizes.tickets, 1) : static_cast<int>(blockIdx.x);
  }
  __syncthreads();
  gpu::check(0 <= ticket && ticket < tiles(p.schedule), "the block's ticket", ticket);
  const Problem problem(p, ticket);
  if (problem.first_key() >= problem.sequence.keys) return;  // its sequence is shorter than the longest
  if (threadIdx.x < gpu::kWarpgroup) {
    // Producer warpgroup: warp 0 loads, warps 1 and 2 add dQ; one lane of each works.
    gpu::lower_registers<kProducerRegisters>();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp <= kConsumers && gpu::elect_one() && problem.visits > 0) {
      if (warp == 0) {
        produce<Dim>(p, problem, barriers, shared);
      } else {
        add_queries<Dim>(p, problem, barriers, shared, warp - 1);
      }
    }
  } else {
    // Consumers. Without visits dK and dV are zeros, which have to be written too.
    gpu::raise_registers<kConsumerRegisters>();
    Consumer<Dim, T> consumer(p, problem, barriers, shared);
    if (problem.visits > 0) consumer.accumulate();
    consumer.finish();
  }
}

// The number of blocks that share the keys, from the call's sizes: known without looking at the sequences' lengths.
int splits_for(const AttentionBackward& a) {
  const int queries = a.cu_seqlens ? a.longest : a.queries, keys = a.cu_seqlens ? a.longest : a.keys;
  return splits_of(queries, keys, a.batch, a.heads, a.kv_heads, a.dim, a.causal, a.window, gpu::multiprocessors());
}

// The three launches, one after another in the stream: prepare, backward, finish.
template <class T>
gpu::Error launch(const Parameters& p, const Prepare& before, const Finish& after, gpu::Stream stream) {
  const auto blocks = [](int64_t count) { return dim3(static_cast<unsigned int>(count)); };
  const Sizes& s = p.sizes;
  // Tiles of queries and of keys, for the longest sequence; finish has a block for each fragment of 64 x 64.
  const int64_t query_units = int64_t{1} * s.query_tiles * s.batch * s.heads;
  const int64_t key_units = s.splits > 1 ? int64_t{1} * s.key_tiles * s.batch * s.kv_heads : 0;
  const int64_t finish_blocks = 2 * query_units + key_units * 4 * (s.dim / 64);
  if (tiles(p.schedule) > INT32_MAX || finish_blocks > INT32_MAX) return "more than 2^31 tiles";
  if (const auto error = gpu::launch(prepare<T>, blocks(query_units), dim3(kPrepareThreads), 0, stream, before))
    return error;
  const auto main = [&](auto kernel, size_t shared) {
    return gpu::launch_exact(kRegisters, kernel, blocks(tiles(p.schedule)), dim3(kThreads), shared, stream, p);
  };
  if (const auto error =
          s.dim == 64 ? main(backward<64, T>, Layout<64>::kBytes) : main(backward<128, T>, Layout<128>::kBytes))
    return error;
  return gpu::launch(finish<T>, blocks(finish_blocks), dim3(kFinishThreads), 0, stream, after);
}

}  // namespace
}  // namespace attention

int64_t attention_backward_workspace(const AttentionBackward& a) {
  using namespace attention;
  return workspace_of(a.queries, a.keys, a.batch, a.heads, a.kv_heads, a.dim, a.cu_seqlens != nullptr, splits_for(a))
      .bytes;
}

gpu::Error launch_attention_backward(const AttentionBackward& a, gpu::Stream stream) {
  using namespace attention;
  if (a.dim != 64 && a.dim != 128) return "the head dimension is neither 64 nor 128";
  const bool packed = a.cu_seqlens != nullptr;
  const int longest_queries = packed ? a.longest : a.queries, longest_keys = packed ? a.longest : a.keys;
  const int rows = query_rows(a.dim), splits = splits_for(a);
  Parameters p{};
  // Maps: boxes of a tile of queries, of a tile of keys, and of a consumer's 64 keys of dK and dV.
  const int batch = packed ? 1 : a.batch;
  const MapSizes queries{batch, a.queries, a.heads, a.dim}, keys{batch, a.keys, a.kv_heads, a.dim};
  if (const auto error = encode(p.q, a.q, a.bf16, queries, rows)) return error;
  if (const auto error = encode(p.k, a.k, a.bf16, keys, kBlockKeys)) return error;
  if (const auto error = encode(p.v, a.v, a.bf16, keys, kBlockKeys)) return error;
  if (const auto error = encode(p.grad, a.grad, a.bf16, queries, rows)) return error;
  if (const auto error = encode(p.dk, a.dk, a.bf16, keys, 64)) return error;
  if (const auto error = encode(p.dv, a.dv, a.bf16, keys, 64)) return error;
  // The workspace: what lies where is in backward_schedule.h.
  const BackwardWorkspace w = workspace_of(a.queries, a.keys, a.batch, a.heads, a.kv_heads, a.dim, packed, splits);
  const auto at = [&](int64_t offset) { return static_cast<char*>(a.workspace) + offset; };
  Sizes& s = p.sizes;
  s.cu_seqlens = a.cu_seqlens;
  s.batch = a.batch, s.queries = a.queries, s.keys = a.keys;
  s.heads = a.heads, s.kv_heads = a.kv_heads, s.dim = a.dim;
  s.query_tiles = (longest_queries + rows - 1) / rows, s.key_tiles = (longest_keys + kBlockKeys - 1) / kBlockKeys;
  s.total_key_tiles = key_tile_count(a.keys, a.batch, packed);
  s.lse = reinterpret_cast<float*>(at(w.lse)), s.delta = reinterpret_cast<float*>(at(w.delta));
  s.dq = reinterpret_cast<float*>(at(w.dq)), s.partial = reinterpret_cast<float*>(at(w.partial));
  s.tickets = reinterpret_cast<int*>(at(w.turns)), s.turns = s.tickets + 1;
  s.splits = splits;
  p.schedule = {s.key_tiles, a.batch, a.kv_heads, splits};
  p.dk_rows = rows_of(a.dk), p.dv_rows = rows_of(a.dv);
  p.scale = a.scale, p.causal = a.causal;
  p.window = a.window < longest_keys ? a.window : 0;  // beyond all keys it hides none, and sums with it stay small
  p.deterministic = a.deterministic;
  const Prepare before{s, rows_of(a.out), rows_of(a.grad), a.lse, a.deterministic};
  const Finish after{s, rows_of(a.dq), p.dk_rows, p.dv_rows, a.scale, 2 * s.query_tiles * a.batch * a.heads};
  return a.bf16 ? launch<gpu::bf16>(p, before, after, stream) : launch<gpu::fp16>(p, before, after, stream);
}

}  // namespace codeshell
