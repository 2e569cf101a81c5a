// AdamW over all tensors of a table in one launch, and the norm of their gradients in one more.
//
// Floor: the bytes of the scheme, each array touched once: 28 per element in fp32 and with fp32 masters, 22 in bf16
// with stochastic rounding, 14 with bf16 moments too. Measured: not run on a GPU.
//
// A block of 256 threads takes a chunk of 8,192 elements of one tensor, a warp tiles of 256, a thread 8 elements of a
// tile, whose loads are all issued before the first use: two 16-byte loads for an fp32 array, one for a 16-bit array.
//
//   tile, fp32 array     |  lane 0  |  lane 1  | … lane 31 |  lane 0  |  lane 1  | …     4 elements each, twice
//   tile, 16-bit array   |       lane 0        |     lane 2  … 30     |    lane 1  | lane 3 …     8 elements each
//
// So every access is 16 bytes wide and neighbouring lanes touch neighbouring bytes. Where a scheme has both widths,
// lanes 2k and 2k + 1 swap halves of the 16-bit packs by shuffles. The last, partial tile of a tensor, and tensors
// whose addresses are not multiples of 16, go element by element, neighbouring lanes on neighbouring elements.
//
// At most 80 registers per thread, so that three blocks share a multiprocessor; on 12.x two (see kBlocks). Shared
// memory: the coefficients and keys of one tensor, and where its results go.
//
// A block's first thread computes the coefficients in fp64 while the first loads are under way. The last block to
// finish counts up the steps.

#include "gpu/cuda.h"
// cuda.h first: the others take __host__ __device__ from it.
#include "adamw/adamw.h"
#include "gpu/launch.h"
#include "gpu/semaphore.h"
#include "gpu/types.h"
#include "gpu/vector.h"

namespace codeshell::adamw {

namespace {

constexpr int kThreads = 256;
constexpr int kTile = 256;         // elements of a warp
constexpr int kEach = kTile / 32;  // of a thread
// Blocks that a multiprocessor must hold at once, each with 32 KiB of loads in flight (fp32). A multiprocessor of an
// H200 moves 36 KB in a microsecond, about the latency of a load, one of a B200 54 KB; one of a 5090 only 11 KB, so that
// two blocks are more than enough. With the registers of three, the compiler of 12.x spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kBlocks = 2;
#else
constexpr int kBlocks = 3;
#endif

// Within 1 ulp (root) and 2 ulp (quotient); the update they enter is a small part of the parameter.
__device__ __forceinline__ float root(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return sqrtf(x);
#endif
}

// What adamw_math.h needs for one float.
__device__ __forceinline__ float quotient(float a, float b) { return __fdividef(a, b); }

#define ADAMW_INLINE __device__ __forceinline__
#include "adamw/adamw_math.h"
#undef ADAMW_INLINE

// A thread's elements of one array and tile, in registers.
template <class T>
struct Eight {
  T elements[kEach];
};

// Lane 2k gives the upper half of its 8 elements, lane 2k + 1 the lower half of its own. Its own inverse.
template <class T>
__device__ __forceinline__ void swap_halves(Eight<T>& x, int lane) {
  static_assert(sizeof(T) == 2);
  unsigned int words[4];
  memcpy(words, &x, 16);
  // Two words of 4 bytes go each way; the shuffle by 1 pairs lanes 2k and 2k + 1.
  const bool odd = lane & 1;
  const unsigned int first = __shfl_xor_sync(0xffffffffu, odd ? words[0] : words[2], 1);
  const unsigned int second = __shfl_xor_sync(0xffffffffu, odd ? words[1] : words[3], 1);
  words[0] = odd ? first : words[0];
  words[1] = odd ? second : words[1];
  words[2] = odd ? words[2] : first;
  words[3] = odd ? words[3] : second;
  memcpy(&x, words, 16);
}

// Place within a tile of a thread's i-th element. `wide`: some array of the scheme is fp32.
template <bool wide>
__device__ __forceinline__ int place(int lane, int i) {
  return wide ? (i / 4) * 128 + lane * 4 + i % 4 : (lane & 1) * 128 + (lane >> 1) * 8 + i;
}

// A whole tile of an aligned array: the thread's 8 elements, by 16-byte loads. Each array is touched once, so it
// streams past the caches.
template <class T>
__device__ __forceinline__ Eight<T> fetch(const T* tile, int lane) {
  Eight<T> x;
  if constexpr (sizeof(T) == 4) {
    const auto first = gpu::load_streaming<4>(tile + lane * 4), second = gpu::load_streaming<4>(tile + 128 + lane * 4);
    memcpy(&x.elements[0], &first, 16);
    memcpy(&x.elements[4], &second, 16);
  } else {
    const auto pack = gpu::load_streaming<8>(tile + place<false>(lane, 0));
    memcpy(&x, &pack, 16);
  }
  return x;
}

// The reverse.
template <class T>
__device__ __forceinline__ void put(T* tile, const Eight<T>& x, int lane) {
  if constexpr (sizeof(T) == 4) {
    gpu::Pack<T, 4> first, second;
    memcpy(&first, &x.elements[0], 16);
    memcpy(&second, &x.elements[4], 16);
    gpu::store_streaming(tile + lane * 4, first);
    gpu::store_streaming(tile + 128 + lane * 4, second);
  } else {
    gpu::Pack<T, 8> pack;
    memcpy(&pack, &x, 16);
    gpu::store_streaming(tile + place<false>(lane, 0), pack);
  }
}

// To bf16, up with the probability of the fraction that is cut off: random bits are added below the last bit that
// stays. Infinities and NaNs are rounded as usual. fp32 needs no rounding.
template <class T>
__device__ __forceinline__ T rounded_stochastically(float x, unsigned int random16) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    unsigned int bits;
    memcpy(&bits, &x, 4);
    const bool finite = (bits & 0x7fffffffu) < 0x7f800000u;
    return finite ? T{static_cast<uint16_t>((bits + random16) >> 16)} : gpu::from_float<T>(x);
  }
}

// A step for one scheme: the types of parameter, gradient and moments, whether there is an fp32 master, and whether
// rounding is stochastic.
template <class P, class G, class M, bool master, bool stochastic>
struct Kernel {
  static constexpr bool kWide = sizeof(P) == 4 || sizeof(G) == 4 || sizeof(M) == 4 || master;
  using Source = std::conditional_t<master, float, P>;  // what the parameter is read from

  // One element of every array. master_weight is the parameter in fp32, whether it comes from a master or not.
  struct Element {
    P param;
    G gradient;
    M exp_avg, exp_avg_sq;
    float master_weight;
  };

  // One element's update, in fp32; `e` comes with the parameter's source in master_weight. The gradient is divided by
  // grad_scale, so that run() may write it back.
  __device__ __forceinline__ static void advance(Element& e, unsigned int index, const Keys& keys,
                                                 const Coefficients& c) {
    float exp_avg = gpu::to_float(e.exp_avg), exp_avg_sq = gpu::to_float(e.exp_avg_sq);
    const float gradient = gpu::to_float(e.gradient);
    update(e.master_weight, gradient * c.gradient, exp_avg, exp_avg_sq, c);
    e.gradient = gpu::from_float<G>(gradient * c.unscale);
    if constexpr (stochastic) {
      // One hash gives 32 bits: the upper half for the parameter, the lower one for the first moment. The second
      // moment, if it is 16-bit, takes a hash of the hash.
      const unsigned int bits = random_bits(index, keys.a, keys.b);
      e.param = master ? gpu::from_float<P>(e.master_weight) : rounded_stochastically<P>(e.master_weight, bits >> 16);
      e.exp_avg = rounded_stochastically<M>(exp_avg, bits & 0xffffu);
      e.exp_avg_sq = rounded_stochastically<M>(exp_avg_sq, sizeof(M) == 2 ? more_bits(bits) >> 16 : 0);
    } else {
      e.param = gpu::from_float<P>(e.master_weight);
      e.exp_avg = gpu::from_float<M>(exp_avg);
      e.exp_avg_sq = gpu::from_float<M>(exp_avg_sq);
    }
  }

  // Where a tensor's results go.
  struct Targets {
    P* param;
    G* gradient;
    M *exp_avg, *exp_avg_sq;
    float* master_weight;
  };

  // A block's chunk: elements [begin, end) of one tensor.
  __device__ __forceinline__ static void run(const Tensor& tensor, int64_t begin, const Settings& settings) {
    __shared__ Coefficients coefficients;
    __shared__ Keys keys;
    // The stores read their addresses from here, so that no registers hold them during the update.
    __shared__ Targets to;
    P* const param = static_cast<P*>(tensor.param);
    G* const gradient = static_cast<G*>(tensor.gradient);
    M *const exp_avg = static_cast<M*>(tensor.exp_avg), *const exp_avg_sq = static_cast<M*>(tensor.exp_avg_sq);
    // With a master, the parameter is only written.
    const Source* source = nullptr;
    if constexpr (master) {
      source = tensor.master;
    } else {
      source = param;
    }
    // One test for all arrays. A chunk begins at a multiple of 16 bytes of each array that does.
    const auto misaligned = (reinterpret_cast<uintptr_t>(param) | reinterpret_cast<uintptr_t>(gradient) |
                             reinterpret_cast<uintptr_t>(exp_avg) | reinterpret_cast<uintptr_t>(exp_avg_sq) |
                             reinterpret_cast<uintptr_t>(source)) &
                            15u;
    const int size = static_cast<int>(tensor.size - begin < kChunk ? tensor.size - begin : kChunk);
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);

    // A round is 2,048 elements, a tile for each warp. All warps have the same number of rounds, because the barrier is
    // in the first; one whose tile lies beyond the end has nothing to load.
    for (int row = 0; row < size; row += kThreads * kEach) {
      const int64_t tile = begin + row + warp * kTile;
      const int left = size - row - warp * kTile;  // may be below zero
      const bool vector = misaligned == 0 && left >= kTile;
      // Loads of all arrays, before anything is computed. w is the parameter or its master, m and v the moments.
      Eight<Source> w = {};
      Eight<G> g = {};
      Eight<M> m = {}, v = {};
      if (vector) {
        g = fetch(gradient + tile, lane);
        w = fetch(source + tile, lane);
        m = fetch(exp_avg + tile, lane);
        v = fetch(exp_avg_sq + tile, lane);
      } else {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          // Element by element: lane l has elements l, l + 32, … as far as they exist.
          const int at = i * 32 + lane;
          if (at >= left) continue;
          g.elements[i] = (gradient + tile)[at];
          w.elements[i] = (source + tile)[at];
          m.elements[i] = (exp_avg + tile)[at];
          v.elements[i] = (exp_avg_sq + tile)[at];
        }
      }
      // Once per block, under the loads: the tensor's coefficients and targets, by one thread for all.
      if (row == 0) {
        if (threadIdx.x == 0) {
          const double step = static_cast<double>(*tensor.step) + 1.0;
          coefficients = coefficients_of(settings, step);
          to = {param, gradient, exp_avg, exp_avg_sq, tensor.master};
          if constexpr (stochastic)
            keys =
                keys_of(settings.seed, static_cast<uint64_t>(step), tensor.stream, static_cast<uint64_t>(begin) >> 32);
        }
        __syncthreads();
      }
      // Where widths are mixed, the 16-bit packs are brought into the order of the fp32 ones.
      if (vector) {
        if constexpr (kWide) {
          if constexpr (sizeof(G) == 2) swap_halves(g, lane);
          if constexpr (sizeof(Source) == 2) swap_halves(w, lane);
          if constexpr (sizeof(M) == 2) swap_halves(m, lane), swap_halves(v, lane);
        }
      }
      // Update in registers.
      Eight<P> p;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        // The element's index in the tensor, modulo 2^32, is what random bits depend on: not the thread.
        const unsigned int index =
            static_cast<unsigned int>(tile) + static_cast<unsigned int>(vector ? place<kWide>(lane, i) : i * 32 + lane);
        Element e{{}, g.elements[i], m.elements[i], v.elements[i], gpu::to_float(w.elements[i])};
        advance(e, index, keys, coefficients);
        p.elements[i] = e.param;
        g.elements[i] = e.gradient;
        m.elements[i] = e.exp_avg;
        v.elements[i] = e.exp_avg_sq;
        if constexpr (master) w.elements[i] = e.master_weight;
      }
      // Store: the 16-bit packs go back to their own order first.
      if (vector) {
        if constexpr (kWide) {
          if constexpr (sizeof(P) == 2) swap_halves(p, lane);
          if constexpr (sizeof(M) == 2) swap_halves(m, lane), swap_halves(v, lane);
        }
        put(to.param + tile, p, lane);
        put(to.exp_avg + tile, m, lane);
        put(to.exp_avg_sq + tile, v, lane);
        if constexpr (master) put(to.master_weight + tile, w, lane);
        if (settings.grad_scale) {
          if constexpr (kWide && sizeof(G) == 2) swap_halves(g, lane);
          put(to.gradient + tile, g, lane);
        }
      } else {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const int at = i * 32 + lane;
          if (at >= left) continue;
          (to.param + tile)[at] = p.elements[i];
          (to.exp_avg + tile)[at] = m.elements[i];
          (to.exp_avg_sq + tile)[at] = v.elements[i];
          if constexpr (master) (to.master_weight + tile)[at] = w.elements[i];
          if (settings.grad_scale) (to.gradient + tile)[at] = g.elements[i];
        }
      }
    }
  }
};

// Whether this block is the last of the grid to come here; what the others wrote before is then visible to it. The last
// one sets the counter back to zero for the next launch.
__device__ __forceinline__ bool is_last_block(unsigned int* finished) {
  // All threads of the block must be done before one of them arrives, and all must know its answer.
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    const bool is = gpu::counter_arrive(finished) == gridDim.x - 1;
    if (is) *finished = 0;
    last = is;
  }
  __syncthreads();
  return last;
}

// Grid: a block for each chunk (one block, if there are none). Nothing at all happens where found_inf says so.
template <class P, class G, class M, bool master, bool stochastic>
__global__ void __launch_bounds__(kThreads, kBlocks) adamw(const StepArguments a) {
  if (a.settings.found_inf && *a.settings.found_inf != 0.0f) return;
  if (blockIdx.x < a.chunk_count) {
    // The block's chunk and its tensor.
    const Chunk chunk = a.chunks[blockIdx.x];
    const Tensor tensor = a.tensors[chunk.tensor];
    // A tensor without a gradient stays as it is.
    if (tensor.gradient) Kernel<P, G, M, master, stochastic>::run(tensor, chunk.piece * kChunk, a.settings);
  }
  // Every block has read the steps it needs; the last one may count them up.
  if (!is_last_block(a.finished)) return;
  for (int64_t i = threadIdx.x; i < a.tensor_count; i += kThreads)
    if (a.tensors[i].gradient) *a.tensors[i].step += 1.0f;
}

// The sum over the block: within each warp by shuffles, then over the warps through shared memory. Every thread adds
// the warps' sums in the same order, so all have the same result.
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  __shared__ T sums[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  T total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += sums[i];
  return total;
}

// The sum of squares: 32 elements per thread in fp32, the block's sum to `partials`, and the last block adds these up
// in fp64. With several launches (one per type of gradient), the last launch makes norm and clipping factor of all
// sums.
template <class G>
__global__ void __launch_bounds__(kThreads) gradient_norm(const NormArguments a) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  float sum = 0.0f;  // of at most 32 elements, a thread's share of a chunk
  if (blockIdx.x < a.chunk_count) {
    const Chunk chunk = a.chunks[blockIdx.x];
    const Tensor tensor = a.tensors[chunk.tensor];
    const G* const gradient = static_cast<const G*>(tensor.gradient);
    const int64_t begin = chunk.piece * kChunk, end = tensor.size - begin < kChunk ? tensor.size : begin + kChunk;
    // Whole chunks of aligned tensors: all loads first, 32 elements per thread.
    const bool aligned = (reinterpret_cast<uintptr_t>(gradient) & 15u) == 0;
    if (gradient && aligned && end - begin == kChunk) {
      Eight<G> g[kChunk / (kThreads * kEach)];  // the whole chunk in flight
#pragma unroll
      for (int r = 0; r < static_cast<int>(kChunk / (kThreads * kEach)); ++r)
        g[r] = fetch(gradient + begin + r * kThreads * kEach + warp * kTile, lane);
#pragma unroll
      for (const Eight<G>& part : g)
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const float x = gpu::to_float(part.elements[i]);
          sum += x * x;
        }
    } else if (gradient) {
      // The last chunk of a tensor, or a tensor that is not aligned: element by element.
#pragma unroll 8
      for (int64_t at = begin + threadIdx.x; at < end; at += kThreads) {
        const float x = gpu::to_float(gradient[at]);
        sum += x * x;
      }
    }
  }
  // The block's sum; each block has its own place, and the last one reads them all.
  const float total = block_sum(sum);
  if (threadIdx.x == 0 && blockIdx.x < a.chunk_count) a.partials[blockIdx.x] = static_cast<double>(total);
  if (!is_last_block(a.finished)) return;
  double all = 0.0;  // in one order, whichever block is the last
  for (int64_t i = threadIdx.x; i < a.chunk_count; i += kThreads) all += a.partials[i];
  all = block_sum(all);
  if (threadIdx.x != 0) return;
  a.sums[a.slot] = all;
  // The last launch: over all slots. A norm that is NaN gives a factor of NaN, as in torch.
  if (a.slot + 1 < a.slot_count) return;
  for (int i = 0; i < a.slot; ++i) all += a.sums[i];
  const double norm = sqrt(all), factor = static_cast<double>(a.max_norm) / (norm + 1e-6);
  a.result[0] = static_cast<float>(norm);
  a.result[1] = static_cast<float>(factor < 1.0 || !(norm == norm) ? factor : 1.0);
}

// At least one block, which then counts the steps of empty tensors.
dim3 grid_of(int64_t chunks) { return dim3(static_cast<unsigned int>(chunks > 0 ? chunks : 1)); }

// One launch of the kernel for a scheme.
template <class P, class G, class M, bool master = false, bool stochastic = false>
gpu::Error start(const StepArguments& a, gpu::Stream stream) {
  return gpu::launch(adamw<P, G, M, master, stochastic>, grid_of(a.chunk_count), dim3(kThreads), 0, stream, a);
}

// bf16 parameters. With a master and fp32 moments nothing is rounded at random, so that case shares one kernel.
template <class G, class M>
gpu::Error start_bf16(const StepArguments& a, gpu::Stream stream) {
  using gpu::bf16;
  const bool stochastic = a.scheme.stochastic && !(a.scheme.master && sizeof(M) == 4);
  if (a.scheme.master)
    return stochastic ? start<bf16, G, M, true, sizeof(M) == 2>(a, stream) : start<bf16, G, M, true>(a, stream);
  return stochastic ? start<bf16, G, M, false, true>(a, stream) : start<bf16, G, M>(a, stream);
}

}  // namespace

// The schemes that there are: bindings/adamw.cpp refuses others.
gpu::Error launch_adamw(const StepArguments& a, gpu::Stream stream) {
  using gpu::bf16, gpu::fp16;
  const bool wide_gradient = a.scheme.gradient == Type::fp32, wide_moment = a.scheme.moment == Type::fp32;
  // fp32 parameters, bf16 parameters; below, fp16 parameters, whose moments are fp32 or fp16.
  switch (a.scheme.param) {
    case Type::fp32:
      if (wide_moment) return start<float, float, float>(a, stream);
      return a.scheme.stochastic ? start<float, float, bf16, false, true>(a, stream)
                                 : start<float, float, bf16>(a, stream);
    case Type::bf16:
      if (wide_gradient) return wide_moment ? start_bf16<float, float>(a, stream) : start_bf16<float, bf16>(a, stream);
      return wide_moment ? start_bf16<bf16, float>(a, stream) : start_bf16<bf16, bf16>(a, stream);
    case Type::fp16: break;
  }
  if (!wide_moment) return wide_gradient ? start<fp16, float, fp16>(a, stream) : start<fp16, fp16, fp16>(a, stream);
  if (wide_gradient)
    return a.scheme.master ? start<fp16, float, float, true>(a, stream) : start<fp16, float, float>(a, stream);
  return a.scheme.master ? start<fp16, fp16, float, true>(a, stream) : start<fp16, fp16, float>(a, stream);
}

gpu::Error launch_gradient_norm(const NormArguments& a, gpu::Stream stream) {
  const auto run = [&](auto kernel) {
    return gpu::launch(kernel, grid_of(a.chunk_count), dim3(kThreads), 0, stream, a);
  };
  if (a.gradient == Type::fp32) return run(gradient_norm<float>);
  return a.gradient == Type::bf16 ? run(gradient_norm<gpu::bf16>) : run(gradient_norm<gpu::fp16>);
}

}  // namespace codeshell::adamw
