// Forward attention for sm_90a: O = softmax(scale Q Kᵀ) V and the log-sum-exp of each row. A block computes one tile:
// 128 queries of one head of one sequence.
//
//   dim   queries x keys   shared memory of the tiles                            registers per thread
//   64    128 x 128        Q/O 16 KiB, K 2 x 16, V 2 x 16:  80 KiB               producer 24, consumers 240
//   128   128 x 128        Q/O 32 KiB, K 2 x 32, V 2 x 32: 160 KiB               the same
//
// 384 threads, one block per multiprocessor: 24 x 128 + 240 x 256 = 64,512 of its 65,536 registers. Warpgroup 0 is the
// producer, warpgroups 1 and 2 are the consumers with 64 of the queries each.
//
// The pipeline, for key blocks 3 to 0. S2 is Q K2ᵀ, and P2 its softmax, not yet divided by the row's sum:
//
//                      first step | step 2            | step 1            | step 0            | end
//   producer  TMA      Q K3       | K2 V3             | K1 V2             | K0 V1             | V0
//   consumer  products S3         | S2  O+=P3 V3 ~~~~ | S1  O+=P2 V2 ~~~~ | S0  O+=P1 V1 ~~~~ | O+=P0 V0
//      0      softmax     P3      |     P2            |     P1            |     P0            |          store O
//   consumer  products    S3      |        S2  O+=P3 V3 ~~~~  | S1  O+=P2 V2 ~~~~ | …
//      1      softmax        P3   |            P2             |     P1            | …
//
// A step issues S of its own keys and P V of the step before, then does the softmax of S while P V still runs. The two
// consumers take turns to issue, so that the products of one run under the softmax of the other.
// Key blocks go from last to first: those with a mask at the causal edge, those without, those at the window's edge.
//
// Who arrives on a barrier (in one phase), and who waits for it:
//
//   query                one producer lane, and Q's bytes               both consumers, once
//   key_full[stage]      one producer lane, and the tile's bytes        both consumers, before S
//   key_empty[stage]     one lane of each of the 8 consumer warps       the producer, before it loads
//   value_full, _empty   the same for V                                 the same, before P V
//   named kTurn + c      consumer c syncs, the other one arrives        consumer c: it may issue its products
//   named kStore + c     the four warps of consumer c                   themselves
//
// Floor: 4 x pairs of query and key that see each other x dim FLOP per head, at 790 TFLOP/s. Measured: not run on a
// GPU.

#include "gpu/cuda.h"
//
#include "attention/attention.h"
#include "attention/forward_schedule.h"
#include "attention/softmax.h"
#include "attention/tensor_maps.h"
#include "gpu/barrier.h"
#include "gpu/check.h"
#include "gpu/launch.h"
#include "gpu/mbarrier.h"
#include "gpu/tma.h"
#include "gpu/vector.h"
#include "gpu/wgmma.h"

namespace codeshell {
namespace attention {
namespace {

// Tiles of K, and as many of V, that are loaded or read at one time.
constexpr int kStages = 2;
constexpr int kConsumers = 2;
constexpr int kThreads = (1 + kConsumers) * gpu::kWarpgroup;
constexpr int kConsumerWarps = kConsumers * gpu::kWarpgroup / 32;
// Registers of a thread: what ptxas gives every one, and what the roles make of it.
constexpr int kRegisters = gpu::registers_at_start(kThreads), kProducerRegisters = 24, kConsumerRegisters = 240;
static_assert(gpu::registers_fit(kProducerRegisters, kConsumerRegisters, kConsumerRegisters));
constexpr int kRows = kTileRows / kConsumers;  // of a consumer
// A tile in shared memory is Dim / 64 panels, one after another: a row per query or key, 64 columns, 128 bytes per row,
// swizzled. Q's panels hold the rows of one consumer, so that each consumer has memory of its own for the output.
constexpr int kRowPanelBytes = kRows * 128, kKeyPanelBytes = kTileKeys * 128;
constexpr int kTurn = 1, kStore = kTurn + kConsumers;  // named barriers: add the consumer's number

// Dynamic shared memory: Q (O at the end), then the stages of K, then those of V. kStageBytes is one tile of K or of V.
template <int Dim>
constexpr uint32_t kStageBytes = kTileKeys * Dim * 2;
template <int Dim>
constexpr uint32_t kQueryBytes = kTileRows * Dim * 2;
template <int Dim>
constexpr uint32_t kSharedBytes = kQueryBytes<Dim> + 2 * kStages * kStageBytes<Dim>;

// The kernel's one argument, in constant memory. Strides count elements; out_data and its strides serve tiles that TMA
// may not store (Consumer::store).
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

// In static shared memory; the table above says who uses them.
struct Barriers {
  gpu::Mbarrier query, key_full[kStages], key_empty[kStages], value_full[kStages], value_empty[kStages];
};

// A block's tile in the tensors: its batch index, the first token of its sequence (0 unless packed), the lengths of the
// sequence, and the key blocks that the tile reads.
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
    // Packed sequences are one row of the batch, and each starts at its offset.
    if (p.cu_seqlens) {
      batch = 0;
      start = p.cu_seqlens[tile.sequence];
      queries = keys = p.cu_seqlens[tile.sequence + 1] - start;
      gpu::check(start >= 0 && queries >= 0 && start <= p.queries - queries, "cu_seqlens: not within the tokens",
                 start);
      gpu::check(queries <= p.schedule.row_blocks * kTileRows, "max_seqlen: less than a sequence's tokens", queries);
    }
    blocks = key_blocks(tile.row_block, queries, keys, p.causal, p.window);
  }
  __device__ __forceinline__ int first_row() const { return tile.row_block * kTileRows; }
};

// Where a role is in a ring of stages: the stage, and the parity of the phase in which that stage is filled. It flips
// each time the ring comes round.
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// One tile of K or V: waits until the consumers have given the stage back, then loads a panel at a time. `token` counts
// in the tensor; rows beyond its last token arrive as zeros, and rows of the next packed sequence as they are.
template <int Dim>
__device__ __forceinline__ void load_keys(uint8_t* tiles, const gpu::TensorMap& map, gpu::Mbarrier (&full)[kStages],
                                          gpu::Mbarrier (&empty)[kStages], Ring& ring, int head, int token, int batch) {
  // The phase before this fill: on a fresh barrier it counts as ended, so the first round does not wait.
  empty[ring.stage].wait(ring.parity ^ 1);
  // The only arrival of the phase; the copies complete it with their bytes.
  full[ring.stage].arrive_expect(kStageBytes<Dim>);
  uint8_t* tile = tiles + static_cast<uint32_t>(ring.stage) * kStageBytes<Dim>;
  // Other heads of the group and other tiles of queries read the same keys, so the L2 cache is asked to keep them.
#pragma unroll
  for (int panel = 0; panel < Dim / kPanel; ++panel) {
    gpu::tma_load<gpu::CacheHint::kEvictLast>(tile + panel * kKeyPanelBytes, map, full[ring.stage], panel * kPanel,
                                              head, token, batch);
  }
  ring.advance();
}

// The producer, one elected lane: Q once, then K and V in the order in which the consumers need them. V of a block
// comes one step after its K.
template <int Dim>
__device__ __forceinline__ void produce(const Parameters& p, const Problem& problem, Barriers& barriers,
                                        uint8_t* shared) {
  uint8_t *keys = shared + kQueryBytes<Dim>, *values = keys + kStages * kStageBytes<Dim>;
  // Q: for each consumer its 64 rows, panel by panel. No other block reads them: first out of the cache.
  barriers.query.arrive_expect(kQueryBytes<Dim>);
#pragma unroll
  for (int part = 0; part < kConsumers * Dim / kPanel; ++part) {
    const int consumer = part / (Dim / kPanel), panel = part % (Dim / kPanel);
    gpu::tma_load<gpu::CacheHint::kEvictFirst>(shared + part * kRowPanelBytes, p.q, barriers.query, panel * kPanel,
                                               problem.tile.head,
                                               problem.start + problem.first_row() + consumer * kRows, problem.batch);
  }
  // K and V: one KV head for the whole query group.
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
  // K of the last block alone fills the pipeline; V of the first block drains it.
  load_key(problem.blocks.end - 1);
  for (int block = problem.blocks.end - 2; block >= problem.blocks.begin; --block) {
    load_key(block);
    load_value(block + 1);
  }
  load_value(problem.blocks.begin);
}

// A consumer warpgroup: 64 queries against all key blocks of the tile. Fragments per thread, in the layout of wgmma's
// accumulators (gpu/wgmma.h): each thread holds parts of two rows, 8 apart.
//   s              64 rows x 128 keys: scores, then their exponentials in place
//   o              64 rows x Dim: the output so far
//   probabilities  the exponentials in 16 bits, as the A operand of the product with V: 8 k-steps of 4 registers
template <int Dim, class T>
struct Consumer {
  const Parameters& p;
  const Problem& problem;
  Barriers& barriers;
  uint8_t* shared;
  int consumer, thread, first_row;  // first_row: the thread's first of two, 8 apart, in the sequence
  uint32_t query, keys, values;     // addresses in the shared window: the consumer's rows of Q, the rings of K and V
  float c;                          // from scores to exponents of 2
  int turns;                        // steps that are left in which this consumer issues in its turn
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

  // S = Q Kᵀ, both operands K-major in shared memory, one k-step for each 16 columns of the head.
  __device__ __forceinline__ void issue_scores() {
    const uint64_t a = gpu::descriptor(query);
    const uint64_t b = gpu::descriptor(keys + static_cast<uint32_t>(key_ring.stage) * kStageBytes<Dim>);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Dim / 16; ++k) {
      // Four k-steps of 32 bytes lie in one panel of 128-byte rows; then comes the next panel.
      const uint32_t within = k % (kPanel / 16) * 32, panel = k / (kPanel / 16);
      gpu::wgmma<kTileKeys, T>(s, a + gpu::descriptor_step(panel * kRowPanelBytes + within),
                               b + gpu::descriptor_step(panel * kKeyPanelBytes + within), k > 0);
    }
    gpu::wgmma_commit();
  }

  // O += P V: P from registers, V with its keys as rows, so MN-major. A k-step is 16 keys, 2048 bytes of a panel.
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

  // Gives a stage back to the producer, after a wait for the products that read it: one arrival per warp.
  __device__ __forceinline__ void release(gpu::Mbarrier (&empty)[kStages], Ring& ring) {
    if (thread % 32 == 0) empty[ring.stage].arrive();
    ring.advance();
  }

  // Scores of keys that a row does not see become -inf: beyond the sequence, after the causal diagonal, or before the
  // window. Columns count from the block's first key.
  __device__ __forceinline__ void mask_block(int block) {
    const int first = block * kTileKeys;
    Columns seen[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      int begin = 0, end = problem.keys;
      if (p.causal) {
        // Aligned bottom right: the last query sees the last key.
        end = first_row + 8 * row + problem.keys - problem.queries + 1;
        if (p.window > 0) begin = end - p.window;
        if (end > problem.keys) end = problem.keys;  // rows past the sequence's end
      }
      seen[row] = {begin - first, end - first};
    }
    fill_unseen(s, seen, 2 * (thread % 4), -INFINITY);
  }

  // Waits for V of a block. The last box of a packed sequence also holds the first values of the next sequence, and a
  // probability of 0 does not silence a NaN: 0 x NaN is NaN. So these rows are set to zero. Both consumers write the
  // same zeros, so that neither waits for the other.
  __device__ __forceinline__ void wait_values(int block) {
    barriers.value_full[value_ring.stage].wait(value_ring.parity);
    const int rows = problem.keys - block * kTileKeys;
    if (!p.cu_seqlens || rows >= kTileKeys) return;
    // Rows from `rows` on, 16 bytes at a time. All chunks of a row become zero, so the swizzle does not matter.
    uint8_t* tile = shared + kQueryBytes<Dim> + static_cast<uint32_t>(kStages + value_ring.stage) * kStageBytes<Dim>;
    constexpr int kChunks = Dim / 8;
    for (int i = rows * kChunks + thread; i < kTileKeys * kChunks; i += gpu::kWarpgroup) {
      uint8_t* chunk = tile + i % kChunks / 8 * kKeyPanelBytes + i / kChunks * 128 + i % 8 * 16;
      gpu::store(chunk, gpu::Pack<uint8_t, 16>{});
    }
    // The zeros were written through the generic proxy, and wgmma reads through the asynchronous one: every thread
    // fences its own writes, and the barrier makes sure that all four warps have done so.
    gpu::fence_async_proxy();
    gpu::barrier_sync(kStore + consumer, gpu::kWarpgroup);
  }

  // The last key block: scores and softmax, no product with V yet. It is masked whether it needs it or not: it happens
  // once per tile.
  __device__ __forceinline__ void first_step(int block) {
    float rescale[2];
    // Consumer 0 takes the first turn. Nobody had a turn before that would pass it on, so consumer 1 does it here.
    if (turns > 0 && consumer == 1) gpu::barrier_arrive(kTurn, kConsumers * gpu::kWarpgroup);
    barriers.query.wait(0);
    barriers.key_full[key_ring.stage].wait(key_ring.parity);
    // Scores of 64 queries x 128 keys. Nothing else is in flight, so the wait is for all.
    issue_scores();
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(s);
    // S is complete, so K has been read.
    release(barriers.key_empty, key_ring);
    mask_block(block);
    // There is no output yet that would need the rescaling.
    softmax.update<true>(s, c, rescale);
    to_operand<T, 0, kSteps>(s, probabilities);
  }

  // One step: S of `block` and the output of block + 1, whose probabilities are in registers. Masked: some row does not
  // see all keys of the block.
  template <bool Masked>
  __device__ __forceinline__ void step(int block) {
    float rescale[2];
    // Wait for both operands before the turn, so that a turn is never held while a load is under way.
    barriers.key_full[key_ring.stage].wait(key_ring.parity);
    wait_values(block + 1);
    // Issue in turn: two groups, first S and then P V. The tensor cores work them off in this order.
    gpu::barrier_sync(kTurn + consumer, kConsumers * gpu::kWarpgroup);
    issue_scores();
    issue_output();
    // Pass the turn on. Every arrival needs its wait: after the last turn of consumer 1 no turn of consumer 0 follows,
    // so there it is not passed on.
    if (--turns > 0 || consumer == 0) gpu::barrier_arrive(kTurn + 1 - consumer, kConsumers * gpu::kWarpgroup);
    // S is there when at most one group, P V, is unfinished. K has then been read.
    gpu::wgmma_wait<1>();
    gpu::wgmma_pin(s);
    release(barriers.key_empty, key_ring);
    // Softmax of S, under P V of the block before.
    if constexpr (Masked) mask_block(block);
    softmax.update<Masked>(s, c, rescale);
    // Wait for P V. A plain wait would be moved in front of the softmax by ptxas; this one depends on the softmax's
    // sums.
    gpu::wgmma_wait_after<0>(softmax.sum[0] + softmax.sum[1]);
    gpu::wgmma_pin(o);
    release(barriers.value_empty, value_ring);
    // Rescale what the earlier blocks gave to the new maximum; `rescale` has one factor for each of the two rows.
#pragma unroll
    for (int i = 0; i < Dim / 2; ++i) o[i] *= rescale[i / 2 % 2];
    // Only now: P V read the old probabilities from these registers while it ran.
    to_operand<T, 0, kSteps>(s, probabilities);
  }

  // All key blocks of the tile, from last to first.
  __device__ __forceinline__ void attend() {
    const KeyBlocks& blocks = problem.blocks;
    int block = blocks.end - 1;
    first_step(block--);
    // Blocks at the causal edge (and the ragged last one), blocks that every row sees whole, blocks at the window's
    // edge.
    for (; block >= blocks.begin && block >= blocks.free_end; --block) step<true>(block);
    for (; block >= blocks.begin && block >= blocks.free_begin; --block) step<false>(block);
    for (; block >= blocks.begin; --block) step<true>(block);
    // The product that is still due: the first block of keys, which came last.
    wait_values(blocks.begin);
    issue_output();
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(o);
  }

  // Epilogue: divide by the row's sum, round, and store O and the log-sum-exp. O goes through the memory of the
  // consumer's own 64 rows of Q, swizzled as TMA expects it.
  __device__ __forceinline__ void store() {
    const int lane = thread % 32, sequence_row = problem.first_row() + consumer * kRows;
    // Index of the sequence's first row in lse: (heads, tokens) if packed, else (batch, heads, queries).
    const int64_t lse_row = p.cu_seqlens
                                ? static_cast<int64_t>(problem.tile.head) * p.queries + problem.start
                                : (static_cast<int64_t>(problem.batch) * p.heads + problem.tile.head) * p.queries;
    uint8_t* tile = shared + consumer * Dim / kPanel * kRowPanelBytes;
    gpu::barrier_sync(kStore + consumer, gpu::kWarpgroup);  // all its warps have read Q, which O overwrites
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float normalise;
      // The four lanes of a quad share the row; the first of them writes its log-sum-exp.
      const float lse = softmax.finish(row, p.scale, normalise);
      const int in_sequence = first_row + 8 * row, in_tile = in_sequence - sequence_row;
      if (lane % 4 == 0 && in_sequence < problem.queries) p.lse[lse_row + in_sequence] = lse;
      // Column group j is 8 columns, one 16-byte chunk, to which each lane of the quad gives 4 bytes. The swizzle moves
      // the chunk within its row.
#pragma unroll
      for (int j = 0; j < Dim / 8; ++j) {
        const uint32_t pair = pack_pair<T>(o[4 * j + 2 * row] * normalise, o[4 * j + 2 * row + 1] * normalise);
        const int chunk = j % 8 ^ in_tile % 8;
        *reinterpret_cast<uint32_t*>(tile + j / 8 * kRowPanelBytes + in_tile * 128 + chunk * 16 + lane % 4 * 4) = pair;
      }
    }
    // TMA reads through the asynchronous proxy: all threads fence their writes, then one of them stores.
    gpu::fence_async_proxy();
    gpu::barrier_sync(kStore + consumer, gpu::kWarpgroup);
    // All 64 rows are in the sequence: one box per panel. The block must not end while TMA still reads its memory.
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
    // Some rows are beyond the end. TMA cuts a box at the tensor's end, but here it could write into the next packed
    // sequence; so the rows that exist go by 16-byte stores, neighbouring threads on neighbouring chunks.
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

// Grid: tiles(p.schedule) blocks, in the order of the schedule.
template <int Dim, class T>
__global__ void __launch_bounds__(kThreads, 1) forward(const __grid_constant__ Parameters p) {
  __shared__ Barriers barriers;
  auto* shared = gpu::shared_memory<uint8_t>();
  const Problem problem(p);
  if (problem.first_row() >= problem.queries) return;  // its sequence is shorter than the longest
  // Fill the barriers: one thread sets the arrivals of each phase, and the fence makes them visible to TMA.
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
  const bool sees_keys = problem.blocks.begin < problem.blocks.end;  // else O is 0 and the log-sum-exp -inf
  if (threadIdx.x < gpu::kWarpgroup) {
    // Producer: gives its registers to the consumers. Three of its warps and 31 lanes have nothing to do.
    gpu::lower_registers<kProducerRegisters>();
    if (threadIdx.x < 32 && gpu::elect_one() && sees_keys) produce<Dim>(p, problem, barriers, shared);
  } else {
    // Consumers.
    gpu::raise_registers<kConsumerRegisters>();
    Consumer<Dim, T> consumer(p, problem, barriers, shared);
    if (sees_keys) consumer.attend();
    consumer.store();
  }
}

template <int Dim, class T>
gpu::Error launch(const Parameters& p, gpu::Stream stream) {
  return gpu::launch_exact(kRegisters, forward<Dim, T>, dim3(static_cast<unsigned int>(tiles(p.schedule))),
                           dim3(kThreads), kSharedBytes<Dim>, stream, p);
}

}  // namespace
}  // namespace attention

gpu::Error launch_attention_forward(const AttentionForward& a, gpu::Stream stream) {
  using namespace attention;
  // The grid is sized by the longest sequence; shorter ones leave blocks without work.
  const int longest_queries = a.cu_seqlens ? a.longest : a.queries, longest_keys = a.cu_seqlens ? a.longest : a.keys;
  Parameters p{};
  // Maps: boxes of a consumer's rows for Q and O, of a whole tile for K and V.
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
