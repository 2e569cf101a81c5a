// Forward attention for sm_90a: O = softmax(scale Q Kᵀ) V and the log-sum-exp, a tile of 128 queries a block.
//
//   dim   tile        shared memory                                    registers
//   64    128 x 128   Q/O 16 KiB, K 2 x 16, V 2 x 16:  80 KiB          producer 24, consumers 240
//   128   128 x 128   Q/O 32 KiB, K 2 x 32, V 2 x 32: 160 KiB          the same
//
//   producer     Q  K3  K2 V3  K1 V2  K0 V1  V0            (one elected lane; TMA; a stage is filled when it is empty)
//   consumer 0   S3 softmax | S2 O+=P3V3 | softmax | S1 O+=P2V2 | softmax | … | O+=P0V0 | store
//   consumer 1              S3 softmax | S2 O+=P3V3 | softmax | …      its products under the other's softmax: each
//   issues
//                                                                      in its turn, by named barriers
// A step issues S of its keys and P V of the last step's, then does the softmax of S while P V is still running.
// Key blocks go from last to first: those with a mask at the causal edge, those without, those at the window's edge.
//
// Not run on a GPU yet. Floor: 4 x rows x keys seen x dim FLOP of each head at 790 TFLOP/s.

#include "gpu/cuda.h"
//
#include "attention/attention.h"
#include "attention/forward_schedule.h"
#include "attention/softmax.h"
#include "attention/tensor_maps.h"
#include "gpu/barrier.h"
#include "gpu/launch.h"
#include "gpu/mbarrier.h"
#include "gpu/tma.h"
#include "gpu/vector.h"
#include "gpu/wgmma.h"

namespace codeshell {
namespace attention {
namespace {

constexpr int kStages = 2;
constexpr int kConsumers = 2;
constexpr int kThreads = (1 + kConsumers) * gpu::kWarpgroup;
constexpr int kConsumerWarps = kConsumers * gpu::kWarpgroup / 32;
constexpr int kRows = kTileRows / kConsumers;  // a consumer's
constexpr int kRowPanelBytes = kRows * 128, kKeyPanelBytes = kTileKeys * 128;
constexpr int kTurn = 1, kStore = kTurn + kConsumers;  // named barriers: + the consumer

template <int Dim>
constexpr uint32_t kStageBytes = kTileKeys * Dim * 2;
template <int Dim>
constexpr uint32_t kQueryBytes = kTileRows * Dim * 2;
template <int Dim>
constexpr uint32_t kSharedBytes = kQueryBytes<Dim> + 2 * kStages * kStageBytes<Dim>;

struct Parameters {
  gpu::TensorMap q, k, v, out;
  Schedule schedule;
  void* out_data;
  int64_t out_batch_stride, out_token_stride, out_head_stride;
  float* lse;
  const int* cu_seqlens;
  int queries, keys, heads;
  float scale;
  bool causal;
  int window;
};

struct Barriers {
  gpu::Mbarrier query, key_full[kStages], key_empty[kStages], value_full[kStages], value_empty[kStages];
};

// A block's tile in the tensors: batch index and first token of its sequence, lengths, key blocks.
struct Problem {
  Tile tile;
  int batch, start, queries, keys;
  KeyBlocks blocks;

  __device__ __forceinline__ explicit Problem(const Parameters& p)
      : tile(tile_of(p.schedule, static_cast<int>(blockIdx.x))),
        batch(tile.sequence),
        start(0),
        queries(p.queries),
        keys(p.keys) {
    if (p.cu_seqlens) {
      batch = 0;
      start = p.cu_seqlens[tile.sequence];
      queries = keys = p.cu_seqlens[tile.sequence + 1] - start;
    }
    blocks = key_blocks(tile.row_block, queries, keys, p.causal, p.window);
  }
  __device__ __forceinline__ int first_row() const { return tile.row_block * kTileRows; }
};

// Where the ring is: a stage, and the parity of its phase.
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

template <int Dim>
__device__ __forceinline__ void load_keys(uint8_t* tiles, const gpu::TensorMap& map, gpu::Mbarrier (&full)[kStages],
                                          gpu::Mbarrier (&empty)[kStages], Ring& ring, int head, int token, int batch) {
  empty[ring.stage].wait(ring.parity ^ 1);
  full[ring.stage].arrive_expect(kStageBytes<Dim>);
  uint8_t* tile = tiles + static_cast<uint32_t>(ring.stage) * kStageBytes<Dim>;
#pragma unroll
  for (int panel = 0; panel < Dim / kPanel; ++panel) {
    gpu::tma_load<gpu::CacheHint::kEvictLast>(tile + panel * kKeyPanelBytes, map, full[ring.stage], panel * kPanel,
                                              head, token, batch);
  }
  ring.advance();
}

template <int Dim>
__device__ __forceinline__ void produce(const Parameters& p, const Problem& problem, Barriers& barriers,
                                        uint8_t* shared) {
  uint8_t *keys = shared + kQueryBytes<Dim>, *values = keys + kStages * kStageBytes<Dim>;
  barriers.query.arrive_expect(kQueryBytes<Dim>);
#pragma unroll
  for (int part = 0; part < kConsumers * Dim / kPanel; ++part) {
    const int consumer = part / (Dim / kPanel), panel = part % (Dim / kPanel);
    gpu::tma_load<gpu::CacheHint::kEvictFirst>(shared + part * kRowPanelBytes, p.q, barriers.query, panel * kPanel,
                                               problem.tile.head,
                                               problem.start + problem.first_row() + consumer * kRows, problem.batch);
  }
  const int head = problem.tile.head / p.schedule.group;
  Ring key_ring, value_ring;
  const auto load_key = [&](int block) {
    load_keys<Dim>(keys, p.k, barriers.key_full, barriers.key_empty, key_ring, head, problem.start + block * kTileKeys,
                   problem.batch);
  };
  const auto load_value = [&](int block) {
    load_keys<Dim>(values, p.v, barriers.value_full, barriers.value_empty, value_ring, head,
                   problem.start + block * kTileKeys, problem.batch);
  };
  load_key(problem.blocks.end - 1);
  for (int block = problem.blocks.end - 2; block >= problem.blocks.begin; --block) {
    load_key(block);
    load_value(block + 1);
  }
  load_value(problem.blocks.begin);
}

template <int Dim, class T>
struct Consumer {
  const Parameters& p;
  const Problem& problem;
  Barriers& barriers;
  uint8_t* shared;
  int consumer, thread, first_row;  // first_row: the thread's first of two, 8 apart, in the sequence
  uint32_t query, keys, values;
  float c;
  int turns;
  Ring key_ring, value_ring;
  Softmax softmax;
  float s[kScores], o[Dim / 2];
  uint32_t probabilities[kSteps][4];

  __device__ __forceinline__ Consumer(const Parameters& parameters, const Problem& a_problem, Barriers& b,
                                      uint8_t* memory)
      : p(parameters),
        problem(a_problem),
        barriers(b),
        shared(memory),
        consumer(gpu::warpgroup_index() - 1),
        thread(static_cast<int>(threadIdx.x) % gpu::kWarpgroup),
        first_row(problem.first_row() + consumer * kRows + thread / 32 * 16 + thread % 32 / 4),
        query(gpu::shared_address(memory) + static_cast<uint32_t>(consumer * Dim / kPanel * kRowPanelBytes)),
        keys(gpu::shared_address(memory) + kQueryBytes<Dim>),
        values(keys + kStages * kStageBytes<Dim>),
        c(parameters.scale * kLog2E),
        turns(problem.blocks.end - problem.blocks.begin - 1) {
#pragma unroll
    for (int i = 0; i < Dim / 2; ++i) o[i] = 0.0f;
  }

  __device__ __forceinline__ void issue_scores() {
    const uint64_t a = gpu::descriptor(query);
    const uint64_t b = gpu::descriptor(keys + static_cast<uint32_t>(key_ring.stage) * kStageBytes<Dim>);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Dim / 16; ++k) {
      const uint32_t within = k % (kPanel / 16) * 32, panel = k / (kPanel / 16);
      gpu::wgmma<kTileKeys, T>(s, a + gpu::descriptor_step(panel * kRowPanelBytes + within),
                               b + gpu::descriptor_step(panel * kKeyPanelBytes + within), k > 0);
    }
    gpu::wgmma_commit();
  }

  __device__ __forceinline__ void issue_output() {
    const uint64_t b =
        gpu::descriptor(values + static_cast<uint32_t>(value_ring.stage) * kStageBytes<Dim>, 1024, kKeyPanelBytes);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      gpu::wgmma<Dim, T, gpu::Major::kMn>(o, probabilities[k], b + gpu::descriptor_step(2048u * k), true);
    }
    gpu::wgmma_commit();
  }

  // After a wait: this warp's products have read the stage.
  __device__ __forceinline__ void release(gpu::Mbarrier (&empty)[kStages], Ring& ring) {
    if (thread % 32 == 0) empty[ring.stage].arrive();
    ring.advance();
  }

  __device__ __forceinline__ void mask_block(int block) {
    const int first = block * kTileKeys;
    Columns seen[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      int begin = 0, end = problem.keys;
      if (p.causal) {
        end = first_row + 8 * row + problem.keys - problem.queries + 1;
        if (p.window > 0) begin = end - p.window;
        if (end > problem.keys) end = problem.keys;  // rows past the sequence's end
      }
      seen[row] = {begin - first, end - first};
    }
    fill_unseen(s, seen, 2 * (thread % 4), -INFINITY);
  }

  // The last box of a packed sequence holds the next one's first values, and probabilities of 0 do not silence a NaN.
  // Both consumers write the zeros, so that neither waits for the other.
  __device__ __forceinline__ void wait_values(int block) {
    barriers.value_full[value_ring.stage].wait(value_ring.parity);
    const int rows = problem.keys - block * kTileKeys;
    if (!p.cu_seqlens || rows >= kTileKeys) return;
    uint8_t* tile = shared + kQueryBytes<Dim> + static_cast<uint32_t>(kStages + value_ring.stage) * kStageBytes<Dim>;
    constexpr int kChunks = Dim / 8;
    for (int i = rows * kChunks + thread; i < kTileKeys * kChunks; i += gpu::kWarpgroup) {
      uint8_t* chunk = tile + i % kChunks / 8 * kKeyPanelBytes + i / kChunks * 128 + i % 8 * 16;
      gpu::store(chunk, gpu::Pack<uint8_t, 16>{});
    }
    gpu::fence_async_proxy();
    gpu::barrier_sync(kStore + consumer, gpu::kWarpgroup);
  }

  __device__ __forceinline__ void first_step(int block) {
    float rescale[2];
    // The first consumer's first turn: free, whatever the second does meanwhile.
    if (turns > 0 && consumer == 1) gpu::barrier_arrive(kTurn, kConsumers * gpu::kWarpgroup);
    barriers.query.wait(0);
    barriers.key_full[key_ring.stage].wait(key_ring.parity);
    issue_scores();
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(s);
    release(barriers.key_empty, key_ring);
    mask_block(block);
    softmax.update<true>(s, c, rescale);
    to_operand<T, 0, kSteps>(s, probabilities);
  }

  template <bool Masked>
  __device__ __forceinline__ void step(int block) {
    float rescale[2];
    barriers.key_full[key_ring.stage].wait(key_ring.parity);
    wait_values(block + 1);
    gpu::barrier_sync(kTurn + consumer, kConsumers * gpu::kWarpgroup);
    issue_scores();
    issue_output();
    // Every arrival has its wait: the second consumer's last turn is followed by none.
    if (--turns > 0 || consumer == 0) gpu::barrier_arrive(kTurn + 1 - consumer, kConsumers * gpu::kWarpgroup);
    gpu::wgmma_wait<1>();
    gpu::wgmma_pin(s);
    release(barriers.key_empty, key_ring);
    if constexpr (Masked) mask_block(block);
    softmax.update<Masked>(s, c, rescale);
    gpu::wgmma_wait_after<0>(softmax.sum[0] + softmax.sum[1]);  // P V ran under it
    gpu::wgmma_pin(o);
    release(barriers.value_empty, value_ring);
#pragma unroll
    for (int i = 0; i < Dim / 2; ++i) o[i] *= rescale[i / 2 % 2];
    to_operand<T, 0, kSteps>(s, probabilities);
  }

  __device__ __forceinline__ void attend() {
    const KeyBlocks& blocks = problem.blocks;
    int block = blocks.end - 1;
    first_step(block--);
    for (; block >= blocks.begin && block >= blocks.free_end; --block) step<true>(block);
    for (; block >= blocks.begin && block >= blocks.free_begin; --block) step<false>(block);
    for (; block >= blocks.begin; --block) step<true>(block);
    wait_values(blocks.begin);
    issue_output();
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(o);
  }

  // Through the consumer's own rows of Q's memory, swizzled as TMA has it.
  __device__ __forceinline__ void store() {
    const int lane = thread % 32, sequence_row = problem.first_row() + consumer * kRows;
    const int64_t lse_row = p.cu_seqlens
                                ? static_cast<int64_t>(problem.tile.head) * p.queries + problem.start
                                : (static_cast<int64_t>(problem.batch) * p.heads + problem.tile.head) * p.queries;
    uint8_t* tile = shared + consumer * Dim / kPanel * kRowPanelBytes;
    gpu::barrier_sync(kStore + consumer, gpu::kWarpgroup);  // all its warps have read Q
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float normalise;
      const float lse = softmax.finish(row, p.scale, normalise);
      const int in_sequence = first_row + 8 * row, in_tile = in_sequence - sequence_row;
      if (lane % 4 == 0 && in_sequence < problem.queries) p.lse[lse_row + in_sequence] = lse;
#pragma unroll
      for (int j = 0; j < Dim / 8; ++j) {
        const uint32_t pair = pack_pair<T>(o[4 * j + 2 * row] * normalise, o[4 * j + 2 * row + 1] * normalise);
        const int chunk = j % 8 ^ in_tile % 8;
        *reinterpret_cast<uint32_t*>(tile + j / 8 * kRowPanelBytes + in_tile * 128 + chunk * 16 + lane % 4 * 4) = pair;
      }
    }
    gpu::fence_async_proxy();
    gpu::barrier_sync(kStore + consumer, gpu::kWarpgroup);
    if (sequence_row + kRows <= problem.queries) {
      if (thread == 0) {
#pragma unroll
        for (int panel = 0; panel < Dim / kPanel; ++panel) {
          gpu::tma_store(p.out, tile + panel * kRowPanelBytes, panel * kPanel, problem.tile.head,
                         problem.start + sequence_row, problem.batch);
        }
        gpu::bulk_commit();
        gpu::bulk_wait_read<0>();
      }
      return;
    }
    // A box would write into the next sequence.
    T* out = static_cast<T*>(p.out_data) + problem.batch * p.out_batch_stride + problem.tile.head * p.out_head_stride +
             (problem.start + sequence_row) * p.out_token_stride;
    constexpr int kChunks = Dim / 8;
    for (int i = thread; i < kRows * kChunks; i += gpu::kWarpgroup) {
      const int row = i / kChunks, chunk = i % kChunks;
      if (sequence_row + row >= problem.queries) break;
      const T* source =
          reinterpret_cast<const T*>(tile + chunk / 8 * kRowPanelBytes + row * 128 + (chunk % 8 ^ row % 8) * 16);
      gpu::store(out + row * p.out_token_stride + chunk * 8, gpu::load<8>(source));
    }
  }
};

template <int Dim, class T>
__global__ void __launch_bounds__(kThreads, 1) forward(const __grid_constant__ Parameters p) {
  __shared__ Barriers barriers;
  auto* shared = gpu::shared_memory<uint8_t>();
  const Problem problem(p);
  if (problem.first_row() >= problem.queries) return;  // shorter than the longest sequence
  if (threadIdx.x == 0) {
    gpu::prefetch_tensor_map(p.q), gpu::prefetch_tensor_map(p.k);
    gpu::prefetch_tensor_map(p.v), gpu::prefetch_tensor_map(p.out);
    barriers.query.init(1);
    for (int stage = 0; stage < kStages; ++stage) {
      barriers.key_full[stage].init(1);
      barriers.value_full[stage].init(1);
      barriers.key_empty[stage].init(kConsumerWarps);
      barriers.value_empty[stage].init(kConsumerWarps);
    }
    gpu::fence_mbarrier_init();
  }
  __syncthreads();
  const bool sees_keys = problem.blocks.begin < problem.blocks.end;  // else every row is empty: zeros
  if (threadIdx.x < gpu::kWarpgroup) {
    gpu::lower_registers<24>();
    if (threadIdx.x < 32 && gpu::elect_one() && sees_keys) produce<Dim>(p, problem, barriers, shared);
  } else {
    gpu::raise_registers<240>();
    Consumer<Dim, T> consumer(p, problem, barriers, shared);
    if (sees_keys) consumer.attend();
    consumer.store();
  }
}

template <int Dim, class T>
gpu::Error launch(const Parameters& p, gpu::Stream stream) {
  return gpu::launch(forward<Dim, T>, dim3(static_cast<unsigned int>(tiles(p.schedule))), dim3(kThreads),
                     kSharedBytes<Dim>, stream, p);
}

}  // namespace
}  // namespace attention

gpu::Error launch_attention_forward(const AttentionForward& a, gpu::Stream stream) {
  using namespace attention;
  const int longest_queries = a.cu_seqlens ? a.longest : a.queries, longest_keys = a.cu_seqlens ? a.longest : a.keys;
  Parameters p{};
  const int batch = a.cu_seqlens ? 1 : a.batch;
  const MapSizes queries{batch, a.queries, a.heads, a.dim}, keys{batch, a.keys, a.kv_heads, a.dim};
  if (const auto error = encode(p.q, a.q, a.bf16, queries, kRows)) return error;
  if (const auto error = encode(p.k, a.k, a.bf16, keys, kTileKeys)) return error;
  if (const auto error = encode(p.v, a.v, a.bf16, keys, kTileKeys)) return error;
  if (const auto error = encode(p.out, a.out, a.bf16, queries, kRows)) return error;
  p.schedule = schedule_of(longest_queries, longest_keys, a.batch, a.heads, a.kv_heads, a.dim);
  if (tiles(p.schedule) > INT32_MAX) return "more than 2^31 tiles";
  p.out_data = a.out.data;
  p.out_batch_stride = a.out.batch_stride, p.out_token_stride = a.out.token_stride;
  p.out_head_stride = a.out.head_stride;
  p.lse = a.lse, p.cu_seqlens = a.cu_seqlens;
  p.queries = a.queries, p.keys = a.keys, p.heads = a.heads;
  p.scale = a.scale, p.causal = a.causal;
  p.window = a.window < longest_keys ? a.window : 0;  // beyond all keys it hides none, and sums with it stay small
  if (a.dim == 64) return a.bf16 ? launch<64, gpu::bf16>(p, stream) : launch<64, gpu::fp16>(p, stream);
  if (a.dim == 128) return a.bf16 ? launch<128, gpu::bf16>(p, stream) : launch<128, gpu::fp16>(p, stream);
  return "the head dimension is neither 64 nor 128";
}

}  // namespace codeshell
