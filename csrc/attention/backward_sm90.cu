// Backward attention for sm_90a: dQ, dK and dV of O = softmax(scale Q Kᵀ) V. A block owns 128 keys of one KV head and
// visits the tiles of queries that see them, of all query heads of the group, so that dK and dV stay in registers: no
// atomics on them, the same bits every time. dQ is added to fp32 sums in memory by bulk copies that reduce.
//
//   dim   tile (queries x keys)   shared memory, KiB                                                 registers
//   64    128 x 128               K 16, V 16, Q 2 x 16, dO 2 x 16, dS 2 x 32, dQ 32, sums 2: 194      producer 24,
//   128    64 x 128               K 32, V 32, Q 2 x 16, dO 2 x 16, dS 2 x 16, dQ 32, sums 1: 193      consumers 240
//
//   producer      warp 0   K Q0 V dO0 dO1 Q1 dO2 Q2 …                 TMA; a stage is filled when it is empty
//                 warps 1, 2                   dQ0    dQ1    dQ2 …    each adds one consumer's half of the tile
//   consumer      S0 | dP0        | dV0        | dQ0 dK0 S1   | dP1 …   each of 64 keys
//                    | exp2 of S0 | dS0 of dP0 | store of dQ0 | exp2 of S1 …
// S and dP are computed with keys as rows: then P and dS go from accumulator to operand of dV += Pᵀ dO and dK += dSᵀ Q
// in registers. dQ = dS K sums over the keys of both consumers, so they exchange dS through shared memory, and each
// computes half of the tile: 64 of its columns at dim 128, 64 of its rows at dim 64.
//
// Not run on a GPU yet. Floor: 10 x pairs of query and key that see each other x dim FLOP of each head at 790 TFLOP/s.

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

template <int Dim, class T>
struct Consumer {
  using L = Layout<Dim>;
  static constexpr int kRows = L::kRows, kSteps = kRows / 16;
  // Of the product with dO, the k-steps that run under the arithmetic of dS: as many as there are registers for. From
  // two on, nvcc says that it has too few (C7512) and serialises all products.
  static constexpr int kEarly = 1;

  const Parameters& p;
  const Problem& problem;
  Barriers& barriers;
  uint8_t* shared;
  int consumer, thread, first_key;  // first_key: the thread's first of two, 8 apart, in the sequence
  uint32_t base;
  float c;
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
#pragma unroll
    for (int i = 0; i < Dim / 2; ++i) dk[i] = dv[i] = 0.0f;
    gpu::wgmma_pin(dk);
    gpu::wgmma_pin(dv);
  }

  static __device__ __forceinline__ uint32_t tile_offset(uint32_t tiles, int stage) {
    return tiles + static_cast<uint32_t>(stage) * kTileBytes;
  }

  // (64 keys) x (queries), from the consumer's rows of K or V and a tile of Q or dO.
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

  // dK or dV += (64 keys) x (queries) in registers times a tile of Q or dO; k-steps [First, End).
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

  __device__ __forceinline__ uint32_t score_offset(int index) const {
    return L::kScores + static_cast<uint32_t>(index & 1) * L::kScoreBytes;
  }

  // The consumer's 64 x 64 of dQ = dS K: of dS a panel of 64 queries, of K a panel of 64 columns.
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

  // After a wait: this warp has read the stage.
  __device__ __forceinline__ void release(gpu::Mbarrier& empty) {
    if (thread % 32 == 0) empty.arrive();
  }

  // The last box of a packed sequence holds the next one's first rows, and a product with 0 does not silence a NaN.
  // Both consumers write the zeros, so that neither waits for the other.
  __device__ __forceinline__ void clear(uint32_t tile, uint32_t panel_bytes, int rows, int tile_rows) {
    if (!p.sizes.cu_seqlens || rows >= tile_rows) return;
    constexpr int kChunks = Dim / 8;
    for (int i = rows * kChunks + thread; i < tile_rows * kChunks; i += gpu::kWarpgroup) {
      uint8_t* chunk = shared + tile + static_cast<uint32_t>(i % kChunks / 8) * panel_bytes + i / kChunks * 128;
      gpu::store(chunk + i % 8 * 16, gpu::Pack<uint8_t, 16>{});
    }
    gpu::fence_async_proxy();
    gpu::barrier_sync(kOwn + consumer, gpu::kWarpgroup);
  }
  __device__ __forceinline__ void wait_keys(gpu::Mbarrier& full, uint32_t tile) {
    full.wait(0);
    clear(tile, kKeyPanelBytes, problem.sequence.keys - problem.first_key(), kBlockKeys);
  }
  __device__ __forceinline__ void wait_queries(gpu::Mbarrier (&full)[kStages], uint32_t tiles, const Visit& visit) {
    full[visit.stage()].wait(visit.parity());
    clear(tile_offset(tiles, visit.stage()), L::kRowPanelBytes, problem.sequence.queries - visit.tile * kRows, kRows);
  }

  // Queries of the tile that see each of the thread's two keys.
  __device__ __forceinline__ void seen_by(int tile, Columns (&seen)[2]) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int key = first_key + 8 * row, offset = problem.sequence.keys - problem.sequence.queries;
      int begin = 0, end = problem.sequence.queries;
      if (p.causal) {
        begin = key - offset;
        if (p.window > 0) end = begin + p.window;
      }
      if (key >= problem.sequence.keys) end = begin;
      seen[row] = {begin - tile * kRows, end - tile * kRows};
    }
  }

  // P = exp2(c S - lse), in place.
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
    if (masked) {  // 0 x NaN is none of an unseen query's business
      Columns seen[2];
      seen_by(visit.tile, seen);
      fill_unseen(dp, seen, 2 * (thread % 4), 0.0f);
    }
  }

  // dS to shared memory, a row a key, swizzled; then both consumers' is there.
  __device__ __forceinline__ void exchange(const uint32_t (&gradients)[kSteps][4], int index) {
    const int row = consumer * 64 + thread / 32 * 16 + thread % 32 / 4;
    // A tile lies at a multiple of 1024, so the chunk's swizzle may be applied to the whole offset.
    const uint32_t start = score_offset(index) + static_cast<uint32_t>(row * 128 + row % 8 * 16 + thread % 4 * 4);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const uint32_t chunk = (2 * k + r / 2) % 8;
        *reinterpret_cast<uint32_t*>(shared + (start ^ chunk * 16) + k / 4 * kKeyPanelBytes + r % 2 * 1024) =
            gradients[k][r];
      }
    }
    gpu::fence_async_proxy();
    gpu::barrier_sync(kExchange, kConsumers * gpu::kWarpgroup);
  }

  // The fragment to shared memory in the order in which the threads hold it, and to the warp that adds it.
  __device__ __forceinline__ void pass_on(int index) {
    barriers.sum_empty[consumer].wait(static_cast<uint32_t>(~index & 1));
    auto* sums = reinterpret_cast<float*>(shared + L::kSums + static_cast<uint32_t>(consumer) * kFragmentBytes);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      gpu::store(sums + (j * gpu::kWarpgroup + thread) * 4,
                 gpu::Pack<float, 4>{{dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]}});
    }
    gpu::fence_async_proxy();
    __syncwarp();
    release(barriers.sum_full[consumer]);
  }

  // S of the visit is there when it starts, and that of the next, unless it is the last, when it ends.
  template <bool Last>
  __device__ __forceinline__ void step(const Visit& visit) {
    uint32_t probabilities[kSteps][4], gradients[kSteps][4];
    const int stage = visit.stage();
    const bool masked = !sees_all(problem.tile.key_block, visit.tile, problem.sequence.queries, problem.sequence.keys,
                                  p.causal, p.window, kRows);
    const uint32_t queries = tile_offset(L::kQueries, stage), gradient = tile_offset(L::kGradients, stage);
    wait_queries(barriers.gradient_full, L::kGradients, visit);
    issue_scores(dp, L::kValues, gradient);
    if (visit.number > 0) release(barriers.query_empty[stage ^ 1]);  // the last visit's Q: read before its end
    probabilities_of(visit, masked);
    to_operand<T, 0, kEarly>(s, probabilities);
    issue_sums<0, kEarly>(dv, probabilities, gradient);
    gpu::wgmma_wait<1>();
    gpu::wgmma_pin(dp);
    gradients_of(visit, masked);
    to_operand<T, kEarly, kSteps>(s, probabilities);
    issue_sums<kEarly, kSteps>(dv, probabilities, gradient);
    to_operand<T, 0, kSteps>(dp, gradients);
    exchange(gradients, visit.number);
    issue_queries(visit.number);
    issue_sums<0, kSteps>(dk, gradients, queries);
    gpu::wgmma_wait<2>();  // dV
    release(barriers.gradient_empty[stage]);
    if constexpr (!Last) {
      Visit next = visit;
      next.advance(problem);
      wait_queries(barriers.query_full, L::kQueries, next);
      issue_scores(s, L::kKeys, tile_offset(L::kQueries, next.stage()));
    }
    gpu::wgmma_wait<Last ? 1 : 2>();  // dQ
    gpu::wgmma_pin(dq);
    pass_on(visit.number);
    // Within the step, although it holds up nothing but the next dP: of a wait in the next, nvcc does not see what it
    // is for (C7514), and serialises all products.
    gpu::wgmma_wait<0>();  // dK and S
    gpu::wgmma_pin(s);
  }

  __device__ __forceinline__ void accumulate() {
    Visit visit(problem);
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
    gpu::barrier_sync(kExchange, kConsumers * gpu::kWarpgroup);  // both have read K
  }

  // The consumer's 64 rows of dK or dV, through its rows of K's or V's memory, swizzled as TMA has it.
  __device__ __forceinline__ void store(const float (&d)[Dim / 2], float factor, uint32_t area,
                                        const gpu::TensorMap& map, const Rows& rows) {
    const int first_row = problem.first_key() + consumer * 64, row = thread / 32 * 16 + thread % 32 / 4;
    uint8_t* tile = shared + area + static_cast<uint32_t>(consumer) * kHalfBytes;
#pragma unroll
    for (int i = 0; i < Dim / 4; ++i) {
      const int j = i / 2, half = i % 2, chunk = j % 8 ^ row % 8;
      *reinterpret_cast<uint32_t*>(tile + j / 8 * kKeyPanelBytes + (row + 8 * half) * 128 + chunk * 16 +
                                   thread % 4 * 4) = pack_pair<T>(d[2 * i] * factor, d[2 * i + 1] * factor);
    }
    gpu::fence_async_proxy();
    gpu::barrier_sync(kOwn + consumer, gpu::kWarpgroup);
    const int left = problem.sequence.keys - first_row, token = problem.sequence.start + first_row;
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
    // A box would write into the next sequence.
    constexpr int kChunks = Dim / 8;
    for (int i = thread; i < left * kChunks; i += gpu::kWarpgroup) {
      const int r = i / kChunks, chunk = i % kChunks;
      const T* source =
          reinterpret_cast<const T*>(tile + chunk / 8 * kKeyPanelBytes + r * 128 + (chunk % 8 ^ r % 8) * 16);
      gpu::store(rows.at<T>(problem.sequence.batch, token + r, problem.tile.kv_head) + chunk * 8, gpu::load<8>(source));
    }
  }

  // To the workspace, in the order in which the threads hold it: `finish` adds the splits.
  __device__ __forceinline__ void store_partial(const float (&d)[Dim / 2], int which) {
    constexpr int64_t kConsumerElements = 64 * Dim;
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

template <int Dim, class T>
__global__ void __launch_bounds__(kThreads, 1) backward(const __grid_constant__ Parameters p) {
  __shared__ Barriers barriers;
  __shared__ int ticket;
  auto* shared = gpu::shared_memory<uint8_t>();
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
    gpu::fence_mbarrier_init();
    ticket = p.deterministic ? atomicAdd(p.sizes.tickets, 1) : static_cast<int>(blockIdx.x);
  }
  __syncthreads();
  gpu::check(0 <= ticket && ticket < tiles(p.schedule), "the block's ticket", ticket);
  const Problem problem(p, ticket);
  if (problem.first_key() >= problem.sequence.keys) return;  // shorter than the longest sequence
  if (threadIdx.x < gpu::kWarpgroup) {
    gpu::lower_registers<24>();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp <= kConsumers && gpu::elect_one() && problem.visits > 0) {
      if (warp == 0) {
        produce<Dim>(p, problem, barriers, shared);
      } else {
        add_queries<Dim>(p, problem, barriers, shared, warp - 1);
      }
    }
  } else {
    gpu::raise_registers<240>();
    Consumer<Dim, T> consumer(p, problem, barriers, shared);
    if (problem.visits > 0) consumer.accumulate();
    consumer.finish();
  }
}

int splits_for(const AttentionBackward& a) {
  const int queries = a.cu_seqlens ? a.longest : a.queries, keys = a.cu_seqlens ? a.longest : a.keys;
  return splits_of(queries, keys, a.batch, a.heads, a.kv_heads, a.dim, a.causal, a.window, gpu::multiprocessors());
}

template <class T>
gpu::Error launch(const Parameters& p, const Prepare& before, const Finish& after, gpu::Stream stream) {
  const auto blocks = [](int64_t count) { return dim3(static_cast<unsigned int>(count)); };
  const Sizes& s = p.sizes;
  const int64_t query_units = int64_t{1} * s.query_tiles * s.batch * s.heads;
  const int64_t key_units = s.splits > 1 ? int64_t{1} * s.key_tiles * s.batch * s.kv_heads : 0;
  const int64_t finish_blocks = 2 * query_units + key_units * 4 * (s.dim / 64);
  if (tiles(p.schedule) > INT32_MAX || finish_blocks > INT32_MAX) return "more than 2^31 tiles";
  if (const auto error = gpu::launch(prepare<T>, blocks(query_units), dim3(kPrepareThreads), 0, stream, before))
    return error;
  const auto main = [&](auto kernel, size_t shared) {
    return gpu::launch(kernel, blocks(tiles(p.schedule)), dim3(kThreads), shared, stream, p);
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
  const int batch = packed ? 1 : a.batch;
  const MapSizes queries{batch, a.queries, a.heads, a.dim}, keys{batch, a.keys, a.kv_heads, a.dim};
  if (const auto error = encode(p.q, a.q, a.bf16, queries, rows)) return error;
  if (const auto error = encode(p.k, a.k, a.bf16, keys, kBlockKeys)) return error;
  if (const auto error = encode(p.v, a.v, a.bf16, keys, kBlockKeys)) return error;
  if (const auto error = encode(p.grad, a.grad, a.bf16, queries, rows)) return error;
  if (const auto error = encode(p.dk, a.dk, a.bf16, keys, 64)) return error;
  if (const auto error = encode(p.dv, a.dv, a.bf16, keys, 64)) return error;
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
