// Decoding attention for sm_90a: a few new tokens of each row over its cache of keys and values, contiguous or paged,
// in one launch. The new tokens' keys and values are appended on the way, rotated if tables are given.
//
//   dim   rows x keys of a consumer   shared memory of the tiles                          registers per thread
//   64    64 x 64                     Q 2 x 8 KiB, ring 12 x (K 8 + V 8): 208 KiB         136
//   128   64 x 64                     Q 2 x 16 KiB, ring 6 x (K 16 + V 16): 224 KiB       168
//
// 288 threads: two consumer warpgroups, then one producer warp; one block per multiprocessor. A block has a row of the
// batch, a KV head, up to 128 rows of its group (row = token x group + head) and a split of the keys. Its producer
// first finds out which row and split, from the lengths of all rows (decode_schedule.h).
//
// The pipeline, for up to 64 rows, where the consumers take every other tile of keys:
//
//   producer    find the share | K0 V0 | K1 V1 | K2 V2 | …              new tokens to the cache
//   consumer 0               Q | S0  softmax  O+=P0 V0 | S2  softmax  O+=P2 V2 | …        merge, store
//   consumer 1               Q |    S1  softmax  O+=P1 V1 | S3  softmax  O+=P3 V3 | …     its result to consumer 0
//
// With more rows each consumer has 64 of them and reads every tile; there is nothing to merge. If the keys are split, a
// block stores a partial result, and the last block to arrive combines them all, in the order of the splits.
// A consumer waits for each of its products; what runs under them is the other consumer's softmax and the loads.
//
// Who arrives on a barrier (in one phase), and who waits for it:
//
//   key_full[stage]     the producer's elected lane, and the bytes loaded    those who read the stage, before S
//   value_full[stage]   the same for V                                       the same, before P V
//   empty[stage]        one lane of each of their warps: 4, or 8             the producer, before it loads K and V
//   named kBlock        all 256 consumer threads                             themselves
//   named kOwn + c      the four warps of consumer c                         themselves
//
// Why wgmma, when a group of 4 fills 4 of its 64 rows: padding costs no bytes, and 16 tokens of a group of 8 are 128
// rows, 384 TFLOP/s at 3 TB/s. A tile of 64 keys at dim 128 is 32 KiB, 1700 cycles of a multiprocessor's share of the
// memory; its products take 512. (Computed, not measured.)
//
// Floor: 4 x keys x dim bytes per row and KV head, at 4.5 TB/s. Measured: not run on a GPU.

#include "gpu/cuda.h"
//
#include "attention/decode.h"
#include "attention/decode_producer.h"
#include "attention/softmax.h"
#include "attention/tensor_maps.h"
#include "gpu/barrier.h"
#include "gpu/check.h"
#include "gpu/launch.h"
#include "gpu/mbarrier.h"
#include "gpu/semaphore.h"
#include "gpu/tma.h"
#include "gpu/vector.h"
#include "gpu/wgmma.h"

namespace codeshell {
namespace attention::decode {
namespace {

// A consumer warpgroup: up to 64 rows of the group (the rest is padding) against tiles of 64 keys. Fragments per
// thread, in the layout of wgmma's accumulators (gpu/wgmma.h): each thread holds parts of two rows, 8 apart.
//   s              64 rows x 64 keys: scores, then their exponentials in place
//   o              64 rows x Dim: the output so far
//   probabilities  the exponentials in 16 bits, as the A operand of the product with V: 4 k-steps of 4 registers
template <int Dim, class T>
struct Consumer {
  static constexpr int kChunks = Dim / 8;

  const Parameters& p;
  const Problem& problem;
  Barriers<Dim>& barriers;
  uint8_t *query_memory, *ring_memory;
  int consumer, thread, first_row, rows;  // rows of the group: the consumer's first, and how many
  int first_of_thread;                    // of the thread's two, 8 apart, among the consumer's
  bool busy;                              // the warp has rows
  Keys keys;                              // that the consumer's rows see
  Columns seen[2];                        // that the thread's rows see
  float c;
  Softmax softmax;
  float s[kScores], o[Dim / 2];
  uint32_t probabilities[kSteps][4];

  __device__ __forceinline__ Consumer(const Parameters& parameters, const Problem& a_problem, Barriers<Dim>& b,
                                      uint8_t* shared)
      : p(parameters),
        problem(a_problem),
        barriers(b),
        consumer(static_cast<int>(threadIdx.x) / gpu::kWarpgroup),
        thread(static_cast<int>(threadIdx.x) % gpu::kWarpgroup),
        c(parameters.a.scale * kLog2E) {
    query_memory = shared + static_cast<uint32_t>(consumer) * kTileBytes<Dim>;
    ring_memory = shared + kConsumers * kTileBytes<Dim>;
    // With more than 64 rows the consumers share them; else both have the same rows and share the tiles.
    const int skip = problem.by_rows ? consumer * kWarpgroupRows : 0;
    first_row = problem.first_row + skip;
    rows = problem.rows - skip < kWarpgroupRows ? problem.rows - skip : kWarpgroupRows;
    busy = thread / 32 * 16 < rows;
    first_of_thread = thread / 32 * 16 + thread % 32 / 4;
    // What all rows of the consumer see together, and what each of the thread's two rows sees.
    keys = keys_of(first_row / p.group, (first_row + rows - 1) / p.group, p.a.queries, problem.total, p.a.causal,
                   p.a.window);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int token = (first_row + first_of_thread + 8 * row) / p.group;
      const Keys own = keys_of(token, token, p.a.queries, problem.total, p.a.causal, p.a.window);
      seen[row] = {own.begin, own.end < problem.total ? own.end : problem.total};  // padding sees what there is
    }
    // Warps without rows skip the softmax, and their zeros take part in the products.
#pragma unroll
    for (int i = 0; i < Dim / 2; ++i) o[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) probabilities[i][j] = 0;
    }
  }

  // Where TMA's swizzle puts a chunk of eight values, 16 bytes.
  __device__ __forceinline__ static uint8_t* chunk_of(uint8_t* tile, int row, int chunk) {
    return tile + chunk / 8 * kPanelBytes + row * 128 + (chunk % 8 ^ row % 8) * 16;
  }

  // After this, what the warpgroup wrote to shared memory is there for its products: each thread fences its writes for
  // the asynchronous proxy, through which wgmma reads, and the barrier waits for all four warps.
  __device__ __forceinline__ void publish() {
    gpu::fence_async_proxy();
    gpu::barrier_sync(kOwn + consumer, gpu::kWarpgroup);
  }

  // Q, rotated, as a tile of 64 rows; rows that do not exist are zeros.
  __device__ __forceinline__ void load_queries() {
    for (int i = thread; i < kWarpgroupRows * kChunks; i += gpu::kWarpgroup) {
      const int row = i / kChunks, chunk = i % kChunks;
      gpu::Pack<T, 8> x{};
      if (row < rows) {
        const int token = (first_row + row) / p.group, head = problem.head * p.group + (first_row + row) % p.group;
        x = turned(p.a, at<T>(p.a.q, problem.row, token, head), chunk, problem.length + token);
      }
      gpu::store(reinterpret_cast<T*>(chunk_of(query_memory, row, chunk)), x);
    }
    publish();
  }

  // Completes a tile of K or V (Values) that TMA has filled. New tokens go to their place in it. Rows of V that no row
  // of the block sees become zeros, because a probability of 0 does not silence a NaN. Two consumers of one tile both
  // do it and write the same, so that neither waits for the other.
  template <bool Values>
  __device__ __forceinline__ void complete(uint8_t* tile_memory, int tile) {
    const int first = tile * kKeyTile, begin = problem.keys.begin, end = problem.keys.end;
    // Most tiles have neither.
    const bool has_new = first + kKeyTile > problem.length && end > problem.length;
    if (!has_new && !(Values && (first < begin || first + kKeyTile > end))) return;
    for (int i = thread; i < kKeyTile * kChunks; i += gpu::kWarpgroup) {
      const int row = i / kChunks, chunk = i % kChunks, key = first + row;
      gpu::Pack<T, 8> x{};
      if (key >= begin && key < end) {
        // Seen, and in the cache: TMA has brought it.
        if (key < problem.length) continue;
        // Seen, and new.
        const int token = key - problem.length;
        if constexpr (Values) {
          x = gpu::load<8>(at<T>(p.a.v_new, problem.row, token, problem.head) + 8 * chunk);
        } else {
          x = turned(p.a, at<T>(p.a.k_new, problem.row, token, problem.head), chunk, key);
        }
      } else if (!Values) {
        continue;
      }
      gpu::store(reinterpret_cast<T*>(chunk_of(tile_memory, row, chunk)), x);
    }
    publish();
  }

  // One tile of keys: S, softmax, O += P V.
  __device__ __forceinline__ void attend_tile(int tile, const Ring& ring) {
    uint8_t* key_tile = ring_memory + static_cast<uint32_t>(ring.stage) * 2 * kTileBytes<Dim>;
    uint8_t* value_tile = key_tile + kTileBytes<Dim>;
    barriers.key_full[ring.stage].wait(ring.parity);
    complete<false>(key_tile, tile);
    // S = Q Kᵀ: both K-major, a k-step for each 16 columns; four of 32 bytes lie in one panel.
    const uint64_t a = gpu::descriptor(gpu::shared_address(query_memory));
    const uint64_t b = gpu::descriptor(gpu::shared_address(key_tile));
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < Dim / 16; ++k) {
      const uint64_t step = gpu::descriptor_step(k / (kPanel / 16) * kPanelBytes + k % (kPanel / 16) * 32);
      gpu::wgmma<kKeyTile, T>(s, a + step, b + step, k > 0);
    }
    gpu::wgmma_commit();
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(s);
    // Softmax, by the warps that have rows: mask, if some row does not see the whole tile, then maximum, exponentials
    // and sum, and rescale what the earlier tiles gave. Nothing else of this consumer is in flight.
    if (busy) {
      const int first = tile * kKeyTile;
      if (first < keys.free_begin || first + kKeyTile > keys.free_end) {
        const Columns columns[2] = {{seen[0].begin - first, seen[0].end - first},
                                    {seen[1].begin - first, seen[1].end - first}};
        fill_unseen(s, columns, 2 * (thread % 4), -INFINITY);
      }
      float rescale[2];
      softmax.update<true>(s, c, rescale);
#pragma unroll
      for (int i = 0; i < Dim / 2; ++i) o[i] *= rescale[i / 2 % 2];
      to_operand<T, 0, kSteps>(s, probabilities);
    }
    barriers.value_full[ring.stage].wait(ring.parity);
    complete<true>(value_tile, tile);
    // O += P V: P from registers, V with keys as rows, so MN-major. A k-step is 16 keys, 2048 bytes of a panel.
    const uint64_t v = gpu::descriptor(gpu::shared_address(value_tile), 1024, kPanelBytes);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      gpu::wgmma<Dim, T, gpu::Major::kMn>(o, probabilities[k], v + gpu::descriptor_step(2048u * k), true);
    }
    gpu::wgmma_commit();
    gpu::wgmma_wait<0>();
    gpu::wgmma_pin(o);
    // K and V have both been read: the stage goes back, one arrival per warp.
    if (thread % 32 == 0) barriers.empty[ring.stage].arrive();
  }

  // This consumer's tiles of the split, from first to last.
  __device__ __forceinline__ void attend() {
    const int steps = problem.by_rows ? 1 : kConsumers, start = problem.by_rows ? 0 : consumer;
    Ring ring{start, 0};
    for (int tile = problem.tiles.begin + start; tile < problem.tiles.end; tile += steps) {
      attend_tile(tile, ring);
      ring.advance<kStages<Dim>>(steps);
    }
  }

  // Merges the result of consumer 1 into that of consumer 0, through the ring's memory, fp32: number i of thread t at i
  // * 128 + t, so that neighbouring threads use neighbouring banks. First o, then the maxima and the sums of two rows.
  __device__ __forceinline__ void merge() {
    float* exchange = reinterpret_cast<float*>(ring_memory) + thread;
    gpu::barrier_sync(kBlock, kConsumerThreads);  // both have read their tiles, which the exchange overwrites
    if (consumer == 1 && busy) {
#pragma unroll
      for (int i = 0; i < Dim / 2; ++i) exchange[i * gpu::kWarpgroup] = o[i];
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        exchange[(Dim / 2 + row) * gpu::kWarpgroup] = softmax.maximum[row];
        exchange[(Dim / 2 + 2 + row) * gpu::kWarpgroup] = softmax.sum[row];
      }
    }
    gpu::barrier_sync(kBlock, kConsumerThreads);
    if (consumer == 1 || !busy) return;
    // Both to the common maximum. A row that neither has seen keeps 0 as its sum: exp2(-inf) is 0.
    float mine[2], other[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float second = exchange[(Dim / 2 + row) * gpu::kWarpgroup];
      const float maximum = fmaxf(softmax.maximum[row], second);
      const float base = maximum == -INFINITY ? 0.0f : maximum * c;
      mine[row] = exp2_fast(softmax.maximum[row] * c - base);
      other[row] = exp2_fast(second * c - base);
      softmax.maximum[row] = maximum;
      softmax.sum[row] = softmax.sum[row] * mine[row] + exchange[(Dim / 2 + 2 + row) * gpu::kWarpgroup] * other[row];
    }
#pragma unroll
    for (int i = 0; i < Dim / 2; ++i) o[i] = o[i] * mine[i / 2 % 2] + exchange[i * gpu::kWarpgroup] * other[i / 2 % 2];
  }

  // Where the result of a row of the group goes: out is contiguous (batch, queries, heads, Dim), lse (batch, heads,
  // queries).
  __device__ __forceinline__ T* out_of(int row_of_group) const {
    const int token = row_of_group / p.group, head = problem.head * p.group + row_of_group % p.group;
    return static_cast<T*>(p.a.out) +
           ((static_cast<int64_t>(problem.row) * p.a.queries + token) * p.a.heads + head) * Dim;
  }
  __device__ __forceinline__ float* lse_of(int row_of_group) const {
    const int token = row_of_group / p.group, head = problem.head * p.group + row_of_group % p.group;
    return p.a.lse + (static_cast<int64_t>(problem.row) * p.a.heads + head) * p.a.queries + token;
  }
  // The workspace has the outputs of all partial results, then their log-sum-exps; this is where these start.
  __device__ __forceinline__ float* partial_lse() const {
    return p.a.workspace +
           static_cast<int64_t>(partial_slots(p.a.batch, p.a.slots)) * p.a.kv_heads * problem.all_rows * Dim;
  }

  // Stores the consumer's rows: the result, if this is the row's only split, else a partial result in fp32. The lanes
  // of a quad have neighbouring pairs of columns.
  __device__ __forceinline__ void store() {
    if (!busy) return;
    const int lane = thread % 32;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float normalise;
      float lse = softmax.finish(row, p.a.scale, normalise);
      // A wrong length or page shows as NaN in its own row.
      if (barriers.wrong) lse = normalise = NAN;
      if (first_of_thread + 8 * row >= rows) continue;
      const int at_row = first_row + first_of_thread + 8 * row;
      if (problem.tiles.active == 1) {
        T* out = out_of(at_row) + lane % 4 * 2;
        if (lane % 4 == 0) *lse_of(at_row) = lse;
#pragma unroll
        for (int j = 0; j < Dim / 8; ++j) {
          *reinterpret_cast<uint32_t*>(out + 8 * j) =
              pack_pair<T>(o[4 * j + 2 * row] * normalise, o[4 * j + 2 * row + 1] * normalise);
        }
      } else {
        const int64_t index = problem.partial(p, problem.share.split, at_row);
        float* out = p.a.workspace + index * Dim + lane % 4 * 2;
        if (lane % 4 == 0) partial_lse()[index] = lse;
#pragma unroll
        for (int j = 0; j < Dim / 8; ++j) {
          gpu::store(out + 8 * j,
                     gpu::Pack<float, 2>{{o[4 * j + 2 * row] * normalise, o[4 * j + 2 * row + 1] * normalise}});
        }
      }
    }
  }

  // Whether this block is the last of its splits to arrive. If so it sets the counter back to 0, for the next launch.
  // The counter's acquire and release, between two barriers of the block, make the other splits' results visible.
  __device__ __forceinline__ bool arrive_last() {
    gpu::barrier_sync(kBlock, kConsumerThreads);  // all of the block's results are written
    if (threadIdx.x == 0) {
      const int pair = problem.row * p.a.kv_heads + problem.head;
      unsigned int* counter = p.a.counters + static_cast<int64_t>(pair) * p.row_tiles + problem.row_tile;
      barriers.last = gpu::counter_arrive(counter) == static_cast<unsigned int>(problem.tiles.active - 1);
      if (barriers.last) *counter = 0;
    }
    gpu::barrier_sync(kBlock, kConsumerThreads);
    return barriers.last;
  }

  // Combines the splits' results by their weights exp(lse), in the order of the splits, so the bits do not depend on
  // which block was last. A thread has 4 columns of a row. Loads of 8 splits are in flight at once: where keys are few,
  // waiting for them is a good part of the launch.
  __device__ __forceinline__ void combine() {
    constexpr int kQuarters = Dim / 4, kAtOnce = 8;
    const int64_t next = static_cast<int64_t>(p.a.kv_heads) * problem.all_rows;  // from one split to the next
    for (int i = static_cast<int>(threadIdx.x); i < problem.rows * kQuarters; i += kConsumerThreads) {
      const int at_row = problem.first_row + i / kQuarters, column = i % kQuarters * 4;
      const float* lses = partial_lse() + problem.partial(p, 0, at_row);
      const float* outs = p.a.workspace + problem.partial(p, 0, at_row) * Dim + column;
      float base = 0.0f, most = -INFINITY, sum = 0.0f, x = 0.0f, y = 0.0f, z = 0.0f, w = 0.0f;
      for (int first = 0; first < problem.tiles.active; first += kAtOnce) {
        float lse[kAtOnce];
        float4 out[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          // From the L2 cache: other multiprocessors wrote them during this launch.
          const bool there = first + j < problem.tiles.active;
          lse[j] = there ? __ldcg(lses + (first + j) * next) : -INFINITY;
          out[j] = there ? __ldcg(reinterpret_cast<const float4*>(outs + (first + j) * next * Dim)) : float4{};
        }
        // As in the softmax: the new maximum, the factor for what is there, then the new terms.
        const float before = most;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) most = fmaxf(most, lse[j]);
        base = most == -INFINITY ? 0.0f : most;
        const float rescale = exp2_fast((before - base) * kLog2E);
        sum *= rescale, x *= rescale, y *= rescale, z *= rescale, w *= rescale;
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
          const float weight = exp2_fast((lse[j] - base) * kLog2E);
          sum += weight;
          x += weight * out[j].x, y += weight * out[j].y, z += weight * out[j].z, w += weight * out[j].w;
        }
      }
      const float normalise = sum == 0.0f ? 0.0f : 1.0f / sum;
      const uint2 pairs = {pack_pair<T>(x * normalise, y * normalise), pack_pair<T>(z * normalise, w * normalise)};
      *reinterpret_cast<uint2*>(out_of(at_row) + column) = pairs;
      if (column == 0) *lse_of(at_row) = sum == 0.0f ? -INFINITY : base + logf(sum);
    }
  }
};

// Grid: slots x KV heads x row tiles, row tiles fastest.
template <int Dim, class T>
__global__ void __launch_bounds__(kThreads, 1) decode(const __grid_constant__ Parameters p) {
  __shared__ Barriers<Dim> barriers;
  auto* shared = gpu::shared_memory<uint8_t>();
  // Set up. The producer warp finds the block's share; meanwhile consumer 0 fills the barriers.
  if (threadIdx.x >= kConsumerThreads) {
    if (threadIdx.x == kConsumerThreads) {  // they come under the loads of the lengths
      gpu::prefetch_tensor_map(p.k);
      gpu::prefetch_tensor_map(p.v);
    }
    const Share share = find_share(p, slot_of_block(p), static_cast<int>(threadIdx.x) % 32);
    if (threadIdx.x == kConsumerThreads) {
      barriers.share = share;
      barriers.wrong = !has_place(p, share.length);
    }
  } else if (threadIdx.x == 0) {
    const int readers = rows_of_block(p) > kWarpgroupRows ? kConsumers : 1;  // of a stage
    for (int stage = 0; stage < kStages<Dim>; ++stage) {
      barriers.key_full[stage].init(1);
      barriers.value_full[stage].init(1);
      barriers.empty[stage].init(readers * gpu::kWarpgroup / 32);
    }
    gpu::fence_mbarrier_init();
  }
  __syncthreads();
  // Slots that no row needs, and splits that have no tile, end here.
  if (barriers.share.splits == 0) return;
  const Problem problem(p, barriers.share);
  if (problem.share.split >= problem.tiles.active) return;
  // Producer. The block of the first split and the first rows also appends the new tokens.
  if (threadIdx.x >= kConsumerThreads) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    load_tiles<Dim>(p, problem, barriers, shared + kConsumers * kTileBytes<Dim>, lane);
    if (p.a.new_tokens && problem.fits && problem.share.split == 0 && problem.row_tile == 0)
      append<Dim, T>(p, problem, lane);
    return;
  }
  // Consumers. One tile alone was consumer 0's, so there is nothing to merge.
  Consumer<Dim, T> consumer(p, problem, barriers, shared);
  consumer.load_queries();
  consumer.attend();
  if (!problem.by_rows && problem.tiles.end - problem.tiles.begin > 1) consumer.merge();
  if (problem.by_rows || consumer.consumer == 0) consumer.store();
  if (problem.tiles.active > 1 && consumer.arrive_last()) consumer.combine();
}

template <int Dim, class T>
gpu::Error launch(const Parameters& p, unsigned int blocks, gpu::Stream stream) {
  return gpu::launch(decode<Dim, T>, dim3(blocks), dim3(kThreads), kSharedBytes<Dim>, stream, p);
}

}  // namespace
}  // namespace attention::decode

gpu::Error launch_attention_decode(const AttentionDecode& a, gpu::Stream stream) {
  using namespace attention::decode;
  Parameters p{};
  p.a = a;
  p.group = a.heads / a.kv_heads;
  p.row_tiles = static_cast<int>(ceiling(static_cast<int64_t>(a.queries) * p.group, kBlockRows));
  p.capacity = a.block_table ? static_cast<int64_t>(a.pages_a_row) * a.page_size : a.page_size;
  // With a table, a box may not reach over the end of a page: it has the largest of 64, 32 and 16 keys that divides the
  // page. Without one, keys beyond a row's capacity arrive as zeros.
  p.box_keys = !a.block_table || a.page_size % 64 == 0 ? 64 : a.page_size % 32 == 0 ? 32 : 16;
  // Sums of positions, and of a position and a tile, stay below 2^31.
  if (p.capacity > int64_t{1} << 30) return "a row's capacity is beyond 2^30 tokens";
  if (a.window >= p.capacity) p.a.window = 0;  // beyond all keys it hides none
  const int64_t blocks = static_cast<int64_t>(a.slots) * a.kv_heads * p.row_tiles;
  if (blocks > INT32_MAX) return "more than 2^31 blocks";
  if (a.slots > a.batch && a.slots > 0xffff) return "more than 65,535 slots";  // find_share sums 16 bits
  // The cache as (pages, tokens of a page, KV heads, dim); without a table a page is a row of the batch.
  const attention::MapSizes cache{a.pages, a.page_size, a.kv_heads, a.dim};
  if (const auto error = attention::encode(p.k, a.k_cache, a.bf16, cache, p.box_keys)) return error;
  if (const auto error = attention::encode(p.v, a.v_cache, a.bf16, cache, p.box_keys)) return error;
  const auto count = static_cast<unsigned int>(blocks);
  if (a.dim == 64) return a.bf16 ? launch<64, gpu::bf16>(p, count, stream) : launch<64, gpu::fp16>(p, count, stream);
  if (a.dim == 128) return a.bf16 ? launch<128, gpu::bf16>(p, count, stream) : launch<128, gpu::fp16>(p, count, stream);
  return "the head dimension is neither 64 nor 128";
}

}  // namespace codeshell
