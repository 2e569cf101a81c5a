// Kernels that try the primitives of csrc/gpu one at a time.

#include "gpu/cuda.h"
//
#include <cstring>

#include "gpu/barrier.h"
#include "gpu/mbarrier.h"
#include "gpu/tma.h"
#include "gpu/vector.h"
#include "gpu/wgmma.h"
#include "primitives.h"

namespace codeshell::primitives {
namespace {

bool is(const char* name, const char* expected) { return std::strcmp(name, expected) == 0; }

// Boxes ---------------------------------------------------------------------------------------------------------------

// An array by value, as a kernel parameter.
struct Coordinates {
  int c[4];
};

// One box to shared memory, whose bytes as they lie there go to `image`.
__global__ void box_load(const __grid_constant__ gpu::TensorMap map, int rank, Coordinates at, uint8_t* image,
                         int bytes) {
  __shared__ gpu::Mbarrier barrier;
  auto* tile = gpu::shared_memory<uint8_t>();
  if (threadIdx.x == 0) {
    gpu::prefetch_tensor_map(map);
    barrier.init(1);
    gpu::fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    barrier.arrive_expect(static_cast<uint32_t>(bytes));
    if (rank == 2) gpu::tma_load<gpu::CacheHint::kEvictLast>(tile, map, barrier, at.c[0], at.c[1]);
    if (rank == 3) gpu::tma_load(tile, map, barrier, at.c[0], at.c[1], at.c[2]);
    if (rank == 4) gpu::tma_load(tile, map, barrier, at.c[0], at.c[1], at.c[2], at.c[3]);
  }
  barrier.wait(0);
  for (int i = static_cast<int>(threadIdx.x); i < bytes; i += static_cast<int>(blockDim.x)) image[i] = tile[i];
}

// The reverse: shared memory gets the bytes of `image`, then one box goes to the tensor.
template <bool Add>
__global__ void box_store(const __grid_constant__ gpu::TensorMap map, int rank, Coordinates at, const uint8_t* image,
                          int bytes) {
  auto* tile = gpu::shared_memory<uint8_t>();
  for (int i = static_cast<int>(threadIdx.x); i < bytes; i += static_cast<int>(blockDim.x)) tile[i] = image[i];
  gpu::fence_async_proxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    const auto store = [&](auto... c) {
      if constexpr (Add) {
        gpu::tma_reduce_add(map, tile, c...);
      } else {
        gpu::tma_store(map, tile, c...);
      }
    };
    if (rank == 2) store(at.c[0], at.c[1]);
    if (rank == 3) store(at.c[0], at.c[1], at.c[2]);
    if (rank == 4) store(at.c[0], at.c[1], at.c[2], at.c[3]);
    gpu::bulk_commit();
    gpu::bulk_wait_read<0>();
  }
}

// Products ------------------------------------------------------------------------------------------------------------

// What is left out, to see that it shows.
enum class Variant { kRight, kNoWait, kNoFence };

// Operands are images of shared memory that the test has laid out: A 64 x 64, then B 64 x N, with the 128-byte swizzle.
template <int N, class T, char A, char B, Variant V>
__global__ void __launch_bounds__(gpu::kWarpgroup)
    gemm(const uint32_t* a_image, const uint32_t* b_image, float* d_image) {
  constexpr int kDepth = 64, kSteps = kDepth / 16;
  constexpr gpu::Major kA = A == 'm' ? gpu::Major::kMn : gpu::Major::kK;
  constexpr gpu::Major kB = B == 'n' ? gpu::Major::kMn : gpu::Major::kK;
  constexpr int kABytes = 64 * 128, kBBytes = (N + 63) / 64 * 64 * 128;
  auto* shared = gpu::shared_memory<uint32_t>();
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (A != 'r') {
    for (int i = thread; i < kABytes / 4; i += gpu::kWarpgroup) shared[i] = a_image[i];
  }
  for (int i = thread; i < kBBytes / 4; i += gpu::kWarpgroup) shared[kABytes / 4 + i] = b_image[i];
  gpu::fence_async_proxy();
  __syncthreads();
  // A k-step is 32 bytes along the rows of a K-major tile, and 16 rows of 128 bytes of an MN-major one.
  const uint32_t start = gpu::shared_address(shared);
  const uint64_t a = gpu::descriptor(start), b = gpu::descriptor(start + kABytes, 1024, kDepth * 128);
  const auto step = [](gpu::Major major, int k) {
    return gpu::descriptor_step(static_cast<uint32_t>(major == gpu::Major::kK ? 32 * k : 2048 * k));
  };
  float d[N / 2];
  uint32_t fragments[kSteps][4];
  if constexpr (A == 'r') {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragments[k][i] = a_image[(k * gpu::kWarpgroup + thread) * 4 + i];
    }
  }
  if constexpr (V != Variant::kNoFence) gpu::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    if constexpr (A == 'r') {
      gpu::wgmma<N, T, kB>(d, fragments[k], b + step(kB, k), k > 0);
    } else {
      gpu::wgmma<N, T, kA, kB>(d, a + step(kA, k), b + step(kB, k), k > 0);
    }
  }
  gpu::wgmma_commit();
  if constexpr (V != Variant::kNoWait) gpu::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d_image[thread * (N / 2) + i] = d[i];
  if constexpr (V == Variant::kNoWait) gpu::wgmma_wait<0>();
}

template <int N, class T, char A, char B>
gpu::Error launch(const Gemm& g, gpu::Stream stream) {
  const auto run = [&](auto kernel) {
    constexpr size_t kShared = 64 * 128 + (N + 63) / 64 * 64 * 128;
    return gpu::launch(kernel, dim3(1), dim3(gpu::kWarpgroup), kShared, stream, static_cast<const uint32_t*>(g.a_image),
                       static_cast<const uint32_t*>(g.b_image), g.d);
  };
#if defined(CODESHELL_HOST_GPU)  // nvcc would rightly warn of these
  if constexpr (N == 64 && A == 'k' && B == 'k') {
    if (is(g.variant, "no_wait")) return run(gemm<N, T, A, B, Variant::kNoWait>);
    if (is(g.variant, "no_fence")) return run(gemm<N, T, A, B, Variant::kNoFence>);
  }
#endif
  return run(gemm<N, T, A, B, Variant::kRight>);
}

template <int N, class T>
gpu::Error launch(const Gemm& g, gpu::Stream stream) {
  if (g.a == 'k' && g.b == 'k') return launch<N, T, 'k', 'k'>(g, stream);
  if (g.a == 'k' && g.b == 'n') return launch<N, T, 'k', 'n'>(g, stream);
  if (g.a == 'm' && g.b == 'n') return launch<N, T, 'm', 'n'>(g, stream);
  if (g.a == 'r' && g.b == 'k') return launch<N, T, 'r', 'k'>(g, stream);
  if (g.a == 'r' && g.b == 'n') return launch<N, T, 'r', 'n'>(g, stream);
  return "no such operands";
}

// A ring of stages --------------------------------------------------------------------------------------------------

constexpr int kTile = 256, kStages = 2, kConsumers = 64;

enum class Fault { kNone, kNoEmpty, kNoFull, kParity, kBytes, kMoreArrivals, kFewerArrivals };

template <Fault F>
__global__ void pipeline(const float* source, float* target, int tiles) {
  __shared__ gpu::Mbarrier full[kStages], empty[kStages];
  auto* ring = gpu::shared_memory<float>();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      full[i].init(1);
      empty[i].init(F == Fault::kMoreArrivals    ? kConsumers + 1
                    : F == Fault::kFewerArrivals ? kConsumers / 2
                                                 : kConsumers);
    }
    gpu::fence_mbarrier_init();
  }
  __syncthreads();
  constexpr uint32_t kBytes = kTile * sizeof(float);
  if (threadIdx.x < 32) {
    if (!gpu::elect_one()) return;
    for (int i = 0; i < tiles; ++i) {
      const int stage = i % kStages;
      const uint32_t parity = static_cast<uint32_t>(i / kStages & 1);
      if (F != Fault::kNoEmpty) empty[stage].wait(F == Fault::kParity ? parity : parity ^ 1);
      full[stage].arrive_expect(F == Fault::kBytes ? kBytes + 16 : kBytes);
      gpu::bulk_load(ring + stage * kTile, source + i * kTile, kBytes, full[stage]);
    }
  } else {
    const int thread = static_cast<int>(threadIdx.x) - 32;
    for (int i = 0; i < tiles; ++i) {
      const int stage = i % kStages;
      if (F != Fault::kNoFull) full[stage].wait(static_cast<uint32_t>(i / kStages & 1));
      for (int k = thread; k < kTile; k += kConsumers) {
        target[i * kTile + k] = 2.0f * ring[stage * kTile + k] + ring[stage * kTile + (k + 1) % kTile];
      }
      empty[stage].arrive();
    }
  }
}

// Roles ---------------------------------------------------------------------------------------------------------------

enum class Role { kRight, kRegisters, kCount };

// Two warpgroups hand a value back and forth by named barriers.
template <Role R>
__global__ void __launch_bounds__(256, 1) roles(int* target) {
  __shared__ int value;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  if (threadIdx.x < 128) {
    gpu::lower_registers<R == Role::kRegisters ? 256 : 40>();
    if (thread == 0) value = 1;
    gpu::barrier_arrive(1, 256);
    gpu::barrier_sync(2, 256);
    target[thread] = value;
  } else {
    gpu::raise_registers<R == Role::kRegisters ? 256 : 232>();
    gpu::barrier_sync(1, R == Role::kCount ? 128 : 256);
    if (thread == 0) value += 10;
    gpu::barrier_arrive(2, 256);
    target[128 + thread] = thread < 32 && gpu::elect_one() ? 100 : 0;
  }
}

}  // namespace

gpu::Error launch_box(const Box& box, gpu::Stream stream) {
  gpu::TensorMap map;
  if (const gpu::Error error = gpu::encode_tensor_map(&map, box.shape)) return error;
  int bytes = box.shape.element == gpu::Element::kFp32 ? 4 : 2;
  for (int i = 0; i < box.shape.rank; ++i) bytes *= static_cast<int>(box.shape.box[i]);
  Coordinates at;
  for (int i = 0; i < 4; ++i) at.c[i] = box.coordinates[i];
  auto* image = static_cast<uint8_t*>(box.image);
  const size_t shared = (static_cast<size_t>(bytes) + 1023) / 1024 * 1024;
  const auto run = [&](auto kernel) {
    return gpu::launch(kernel, dim3(1), dim3(64), shared, stream, map, box.shape.rank, at, image, bytes);
  };
  if (is(box.name, "load")) return run(box_load);
  if (is(box.name, "store")) return run(box_store<false>);
  if (is(box.name, "add")) return run(box_store<true>);
  return "no such kernel";
}

gpu::Error launch_gemm(const Gemm& g, gpu::Stream stream) {
  if (g.n == 32 && g.bf16) return launch<32, gpu::bf16>(g, stream);
  if (g.n == 64 && g.bf16) return launch<64, gpu::bf16>(g, stream);
  if (g.n == 64) return launch<64, gpu::fp16>(g, stream);
  if (g.n == 128 && g.bf16) return launch<128, gpu::bf16>(g, stream);
  if (g.n == 192 && g.bf16) return launch<192, gpu::bf16>(g, stream);
  if (g.n == 256 && g.bf16) return launch<256, gpu::bf16>(g, stream);
  return "no such size";
}

gpu::Error launch_pipeline(const Pipeline& p, gpu::Stream stream) {
  const auto run = [&](auto kernel) {
    return gpu::launch(kernel, dim3(1), dim3(32 + kConsumers), kStages * kTile * sizeof(float), stream, p.source,
                       p.target, p.size / kTile);
  };
#if defined(CODESHELL_HOST_GPU)
  if (is(p.variant, "no_empty")) return run(pipeline<Fault::kNoEmpty>);
  if (is(p.variant, "no_full")) return run(pipeline<Fault::kNoFull>);
  if (is(p.variant, "parity")) return run(pipeline<Fault::kParity>);
  if (is(p.variant, "bytes")) return run(pipeline<Fault::kBytes>);
  if (is(p.variant, "more_arrivals")) return run(pipeline<Fault::kMoreArrivals>);
  if (is(p.variant, "fewer_arrivals")) return run(pipeline<Fault::kFewerArrivals>);
#endif
  return run(pipeline<Fault::kNone>);
}

gpu::Error launch_roles(const Roles& r, gpu::Stream stream) {
  const auto run = [&](auto kernel, unsigned int threads = 256) {
    return gpu::launch(kernel, dim3(1), dim3(threads), 0, stream, r.target);
  };
#if defined(CODESHELL_HOST_GPU)
  if (is(r.variant, "registers")) return run(roles<Role::kRegisters>, 384);
  if (is(r.variant, "count")) return run(roles<Role::kCount>);
#endif
  return run(roles<Role::kRight>);
}

}  // namespace codeshell::primitives
