// The gradient of the cross-entropy over a large vocabulary, in the memory of the logits: each row is read for its
// maximum and its sum of exponentials, and then becomes (softmax - one-hot) * scale.
//
// Floor: each logit read once and written once, 4 bytes per logit in bf16 and fp16, 8 in fp32: 0.53 ms for 8,192 rows
// of 70,144 bf16 logits at 4.3 TB/s. Measured: not run on a GPU.
//
// The second reading must not be of the device's memory. A block has a row and keeps as much of it as fits into shared
// memory, half of the multiprocessor's, because two blocks share one: the loads of one run beside the exponentials and
// stores of the other. What does not fit is read again from the L2, the end of the row first, because that was read
// last. Of a row of 70,144 bf16 logits (137 KiB) 112 KiB are kept on a GPU with 228 KiB; what is left of all rows that
// are in work at once is 7 MB, of an L2 of 50 MB.
//
//   a row      | loose | pack 0 | pack 1 | …                                | loose |     packs of 16 aligned bytes
//   threads            | round 0: pack 0 … threads - 1 | round 1 | round 2 | …          four rounds are one batch,
//                      | kept in shared memory               | in the L2 |              whose loads are issued together
//
// The loose elements before the first pack and after the last, fewer than two packs, go one by one. So any row stride
// and any vocabulary are served, and all other accesses are of 16 bytes.
//
// Few rows are split into parts, a block each, in two launches: partial sums, then gradients, which add up all partial
// sums of their row. The rows are then so few that all of them stay in the L2.
//
// Sums are fp32, each thread's own, then added in a fixed order: the bits depend on the shape and on the GPU, not on
// the order of the blocks. At most 64 registers, so that two blocks of 512 threads share a multiprocessor.

#include "gpu/cuda.h"
// cuda.h first: the others take __host__ __device__ from it.
#include "gpu/check.h"
#include "gpu/launch.h"
#include "gpu/types.h"
#include "gpu/vector.h"
#include "loss/softmax_gradient.h"

namespace codeshell::loss {

namespace {

constexpr int kThreads = 512;  // at most
constexpr int kBlocks = 2;     // of a multiprocessor, at least
constexpr int kUnroll = 4;     // rounds of a batch
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;
constexpr float kLog2e = 1.4426950408889634f;

template <class T>
using Pack = gpu::Pack<T, gpu::kPackWidth<T>>;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

// e^x within 2 ulp of a result, plus what the rounding of x log2(e) makes of it.
__device__ __forceinline__ float power(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * kLog2e));
  return y;
#else
  return exp2f(x * kLog2e);
#endif
}

// The sum of e^(x - top) over some logits, of which top is the largest; a NaN among them makes the sum NaN.
struct Sum {
  float top, sum;
};

__device__ __forceinline__ Sum nothing() { return {-infinity(), 0.0f}; }

// What is subtracted from logits of which `top` is the largest: where all are -inf, -inf - -inf would be NaN.
__device__ __forceinline__ float base(float top) { return top == -infinity() ? 0.0f : top; }

// Adds N logits. The sum so far is scaled once for all of them; four sums, so that additions do not wait for each other.
template <int N>
__device__ __forceinline__ void add(Sum& so_far, const float (&x)[N]) {
  float top = so_far.top;
#pragma unroll
  for (int i = 0; i < N; ++i) top = fmaxf(top, x[i]);
  const float from = base(top);
  float sums[4] = {so_far.sum * power(so_far.top - from), 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < N; ++i) sums[i % 4] += power(x[i] - from);
  so_far = {top, (sums[0] + sums[1]) + (sums[2] + sums[3])};
}

// The sum over the lanes of a warp, the same bits in all of them.
__device__ __forceinline__ Sum over_warp(Sum own) {
  float top = own.top;
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) top = fmaxf(top, __shfl_xor_sync(kAll, top, bits));
  float sum = own.sum * power(own.top - base(top));
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) sum += __shfl_xor_sync(kAll, sum, bits);
  return {top, sum};
}

// The sum over the threads of a block, the same bits in all of them. All must take part; one barrier.
__device__ __forceinline__ Sum over_block(Sum own) {
  __shared__ Sum warps[kWarps];
  const Sum mine = over_warp(own);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  return over_warp(lane < static_cast<int>(blockDim.x / 32) ? warps[lane] : nothing());
}

// A row, or a part of one: `packs` aligned packs, and loose elements beside them.
template <class T>
struct Part {
  T* row;     // its first element
  int first;  // the element with which the packs begin
  int packs;
  int before;  // loose elements before the first pack of the row, from element 0 on
  int loose;   // and in all
  int after;   // where those after the last pack begin

  // The i-th loose element.
  __device__ __forceinline__ int place(int i) const { return i < before ? i : after + (i - before); }
};

// Part `split` of `splits` of a row; the first one has the loose elements.
template <class T>
__device__ __forceinline__ Part<T> part_of(const SoftmaxGradient& a, int64_t r, int split, int splits) {
  constexpr int kWidth = gpu::kPackWidth<T>;
  const int n = static_cast<int>(a.vocabulary);
  T* const row = static_cast<T*>(a.logits) + r * a.row_stride;
  // Elements up to the next multiple of 16 bytes.
  const int missing = static_cast<int>((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
  const int before = missing < n ? missing : n;
  const int packs = (n - before) / kWidth, after = before + packs * kWidth;
  const int begin = static_cast<int>(static_cast<int64_t>(packs) * split / splits);
  const int end = static_cast<int>(static_cast<int64_t>(packs) * (split + 1) / splits);
  return {row, before + begin * kWidth, end - begin, before, split == 0 ? n - packs * kWidth : 0, after};
}

// A pack's elements in fp32. Of two bf16 in a word the lower moves up and the upper stays: one instruction each.
template <class T>
__device__ __forceinline__ void widen(const Pack<T>& pack, float* x) {
  constexpr int kWidth = gpu::kPackWidth<T>;
  if constexpr (std::is_same_v<T, gpu::bf16>) {
    unsigned words[kWidth / 2];
    memcpy(words, &pack, sizeof(pack));
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x[i] = gpu::to_float(pack[i]);
  }
}

// A thread's packs of the batch that begins with round `first`, by 16-byte loads that are all issued before the first
// use. whole: the batch ends before the part does. keep: the packs also go to shared memory, to the thread's own slots.
template <class T, bool whole, bool keep>
__device__ __forceinline__ void read_batch(const Part<T>& part, int first, Pack<T>* slots, Sum& sum) {
  constexpr int kWidth = gpu::kPackWidth<T>;
  const int threads = static_cast<int>(blockDim.x), begin = first * threads + static_cast<int>(threadIdx.x);
  const T* const from = part.row + part.first;
  Pack<T> values[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int pack = begin + i * threads;
    if (whole || pack < part.packs) {
      // What is kept is not read again, and leaves the L2 to what is.
      values[i] = keep ? gpu::load_streaming<kWidth>(from + static_cast<int64_t>(pack) * kWidth)
                       : gpu::load<kWidth>(from + static_cast<int64_t>(pack) * kWidth);
    } else {
      // Beyond the end: -inf adds nothing.
#pragma unroll
      for (int j = 0; j < kWidth; ++j) values[i][j] = gpu::from_float<T>(-infinity());
    }
  }
  // Two packs at a time: registers for all of them in fp32 are not there.
#pragma unroll
  for (int i = 0; i < kUnroll; i += 2) {
    float x[2 * kWidth];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int pack = begin + (i + k) * threads;
      if (keep && (whole || pack < part.packs)) gpu::store(reinterpret_cast<T*>(slots + pack), values[i + k]);
      widen<T>(values[i + k], x + k * kWidth);
    }
    add(sum, x);
  }
}

// The thread's sum over its packs, of which the first `kept` rounds are kept, and its loose element. kept is a multiple
// of kUnroll or covers the part.
template <class T>
__device__ __forceinline__ Sum read_part(const Part<T>& part, int kept, Pack<T>* slots) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  Sum sum = nothing();
  const int whole = part.packs / (kUnroll * threads) * kUnroll;  // rounds of whole batches
  int first = 0;
  for (; first < whole && first < kept; first += kUnroll) read_batch<T, true, true>(part, first, slots, sum);
  for (; first < whole; first += kUnroll) read_batch<T, true, false>(part, first, nullptr, sum);
  // The last batch, if a part of one is left.
  if (first * threads < part.packs) {
    if (first < kept) {
      read_batch<T, false, true>(part, first, slots, sum);
    } else {
      read_batch<T, false, false>(part, first, nullptr, sum);
    }
  }
  if (thread < part.loose) {
    const float x[1] = {gpu::to_float(part.row[part.place(thread)])};
    add(sum, x);
  }
  return sum;
}

// What turns a logit x into its gradient: e^(x - from) * factor, less `scale` where it is the target's.
struct Change {
  float from, factor, scale;
  int target;  // its place in the row
};

// The gradient of one logit.
__device__ __forceinline__ float gradient(float x, const Change& change) {
  return power(x - change.from) * change.factor;
}

// The thread's packs of a batch become gradients.
template <class T, bool kept>
__device__ __forceinline__ void write_batch(const Part<T>& part, int first, const Pack<T>* slots,
                                            const Change& change) {
  constexpr int kWidth = gpu::kPackWidth<T>;
  const int threads = static_cast<int>(blockDim.x), begin = first * threads + static_cast<int>(threadIdx.x);
  T* const to = part.row + part.first;
  Pack<T> values[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int pack = begin + i * threads;
    if (pack >= part.packs) break;
    values[i] = kept ? gpu::load<kWidth>(reinterpret_cast<const T*>(slots + pack))
                     : gpu::load_streaming<kWidth>(to + static_cast<int64_t>(pack) * kWidth);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int pack = begin + i * threads;
    if (pack >= part.packs) break;
    float x[kWidth];
    widen<T>(values[i], x);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) values[i][j] = gpu::from_float<T>(gradient(x[j], change));
    gpu::store_streaming(to + static_cast<int64_t>(pack) * kWidth, values[i]);
  }
}

// The part becomes its gradient. From the end: there the L2 still has what was read last.
template <class T>
__device__ __forceinline__ void write_part(const Part<T>& part, int kept, const Pack<T>* slots, const Change& change) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  // Who writes the target's element, in a pack or among the loose ones: it does so once more at the end, with the
  // target's share off, and reads the logit now.
  const int offset = change.target - part.first, pack = offset / gpu::kPackWidth<T>;
  const bool in_pack = offset >= 0 && pack < part.packs && pack % threads == thread;
  const bool mine = in_pack || (thread < part.loose && part.place(thread) == change.target);
  const float own = mine ? gpu::to_float(part.row[change.target]) : 0.0f;

  const int rounds = (part.packs + threads - 1) / threads;
  int first = (rounds - 1) / kUnroll * kUnroll;
  for (; first >= kept; first -= kUnroll) write_batch<T, false>(part, first, nullptr, change);
  for (; first >= 0; first -= kUnroll) write_batch<T, true>(part, first, slots, change);
  if (thread < part.loose) {
    T* const x = part.row + part.place(thread);
    *x = gpu::from_float<T>(gradient(gpu::to_float(*x), change));
  }
  if (mine) part.row[change.target] = gpu::from_float<T>(gradient(own, change) - change.scale);
}

// One value for the whole part.
template <class T>
__device__ __forceinline__ void fill_part(const Part<T>& part, float value) {
  constexpr int kWidth = gpu::kPackWidth<T>;
  Pack<T> pack;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) pack[j] = gpu::from_float<T>(value);
  for (int i = static_cast<int>(threadIdx.x); i < part.packs; i += static_cast<int>(blockDim.x))
    gpu::store_streaming(part.row + part.first + static_cast<int64_t>(i) * kWidth, pack);
  if (static_cast<int>(threadIdx.x) < part.loose) part.row[part.place(threadIdx.x)] = pack[0];
}

// A row's target: its place in the row, or what the row becomes where it has none.
struct Target {
  int place;     // -1 where there is none
  float filled;  // zero or NaN
};

__device__ __forceinline__ Target target_of(const SoftmaxGradient& a, int64_t r) {
  const int64_t target = a.targets[r];
  if (target == a.ignore_index) return {-1, 0.0f};
  const bool inside = target >= 0 && target < a.vocabulary;
  gpu::check(inside, "a target is outside the vocabulary", static_cast<int>(target));
  return {inside ? static_cast<int>(target) : -1, not_a_number()};
}

__device__ __forceinline__ float scale_of(const SoftmaxGradient& a) {
  return a.scale_pointer ? *a.scale_pointer : a.scale;
}

// log(sum of e^x) - own, of a row with this sum. The difference comes first: it is exact where the two are near.
__device__ __forceinline__ float loss_of(const Sum& row, float own) { return base(row.top) - own + logf(row.sum); }

// A row for each block. kept: rounds of packs that shared memory has slots for.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) whole_rows(const __grid_constant__ SoftmaxGradient a, int kept) {
  Pack<T>* const slots = kept ? gpu::shared_memory<Pack<T>>() : nullptr;
  const int64_t r = blockIdx.x;
  const Part<T> part = part_of<T>(a, r, 0, 1);
  const Target target = target_of(a, r);
  if (target.place < 0) {
    fill_part(part, target.filled);
    if (threadIdx.x == 0) a.losses[r] = target.filled;
    return;
  }
  // The target's logit is read before the barrier, after which the row is overwritten.
  const float own = threadIdx.x == 0 ? gpu::to_float(part.row[target.place]) : 0.0f;
  const Sum row = over_block(read_part(part, kept, slots));
  const float scale = scale_of(a);
  write_part(part, kept, slots, {base(row.top), scale / row.sum, scale, target.place});
  if (threadIdx.x == 0) a.losses[r] = loss_of(row, own);
}

// Split rows: the sum of each part, (rows, splits), and the target's logit where the loss will be.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) partial_sums(const __grid_constant__ SoftmaxGradient a) {
  const int64_t r = blockIdx.y;
  const int split = static_cast<int>(blockIdx.x);
  const Target target = target_of(a, r);
  if (target.place < 0) return;
  const Part<T> part = part_of<T>(a, r, split, a.splits);
  const Sum sum = over_block(read_part<T>(part, 0, nullptr));
  if (threadIdx.x != 0) return;
  float* const to = a.partials + 2 * (r * a.splits + split);
  to[0] = sum.top, to[1] = sum.sum;
  if (split == 0) a.losses[r] = gpu::to_float(part.row[target.place]);
}

// And the gradients. Every warp adds up the row's partial sums, in one order.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) split_rows(const __grid_constant__ SoftmaxGradient a) {
  const int64_t r = blockIdx.y;
  const int split = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x % 32);
  const Part<T> part = part_of<T>(a, r, split, a.splits);
  const Target target = target_of(a, r);
  const bool first = split == 0 && threadIdx.x == 0;
  if (target.place < 0) {
    fill_part(part, target.filled);
    if (first) a.losses[r] = target.filled;
    return;
  }
  const float* const from = a.partials + 2 * (r * a.splits + lane);
  const Sum row = over_warp(lane < a.splits ? Sum{from[0], from[1]} : nothing());
  const float scale = scale_of(a);
  write_part<T>(part, 0, nullptr, {base(row.top), scale / row.sum, scale, target.place});
  if (first) a.losses[r] = loss_of(row, a.losses[r]);
}

// Threads for a part of so many packs: whole warps, and as few idle ones in the last batch as can be.
int threads_for(int64_t packs) {
  const int64_t batches = (packs + kThreads * kUnroll - 1) / (kThreads * kUnroll);
  const int64_t rounds = (batches < 1 ? 1 : batches) * kUnroll;
  const int64_t threads = ((packs + rounds - 1) / rounds + 31) / 32 * 32;
  return static_cast<int>(threads < 32 ? 32 : threads);
}

template <class T>
gpu::Error launch_typed(const SoftmaxGradient& a, gpu::Stream stream) {
  const int64_t packs = (a.vocabulary + gpu::kPackWidth<T> - 1) / gpu::kPackWidth<T>;
  if (a.splits > 1) {
    const dim3 grid(static_cast<unsigned>(a.splits), static_cast<unsigned>(a.rows));
    const dim3 block(static_cast<unsigned>(threads_for((packs + a.splits - 1) / a.splits)));
    const gpu::Error error = gpu::launch(partial_sums<T>, grid, block, 0, stream, a);
    return error ? error : gpu::launch(split_rows<T>, grid, block, 0, stream, a);
  }
  // As many rounds as fit into half of a multiprocessor's shared memory. Of that each block has 1 KiB reserved, and
  // another for the sums of its warps, because dynamic memory begins at a multiple of 1 KiB.
  const int threads = threads_for(packs);
  const int64_t each = static_cast<int64_t>(threads) * sizeof(Pack<T>);
  const int64_t half = (gpu::shared_memory_per_block() + 1024) / kBlocks - 2048;
  const int64_t rounds = (packs + threads - 1) / threads, room = half < each ? 0 : half / each;
  const int64_t kept = rounds <= room ? rounds : room / kUnroll * kUnroll;
  return gpu::launch(whole_rows<T>, dim3(static_cast<unsigned>(a.rows)), dim3(static_cast<unsigned>(threads)),
                     static_cast<size_t>(kept * each), stream, a, static_cast<int>(kept));
}

}  // namespace

gpu::Error launch_softmax_gradient(const SoftmaxGradient& arguments, gpu::Stream stream) {
  if (arguments.rows == 0 || arguments.vocabulary == 0) return nullptr;
  if (arguments.rows > (arguments.splits > 1 ? 0xffff : 0x7fffffff)) return "more blocks than a grid has";
  if (arguments.type == Type::fp32) return launch_typed<float>(arguments, stream);
  if (arguments.type == Type::bf16) return launch_typed<gpu::bf16>(arguments, stream);
  return launch_typed<gpu::fp16>(arguments, stream);
}

}  // namespace codeshell::loss
