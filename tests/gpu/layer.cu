// Small kernels, right and wrong, that try the host execution.

#include "gpu/cuda.h"
//
#include <cstring>

#include "gpu/vector.h"
#include "layer.h"

namespace codeshell::layer {
namespace {

// The sum of the source: one partial sum per block, added atomically to target[0].
template <int Threads>
__global__ void __launch_bounds__(Threads) sum(const float* source, float* target, int64_t size) {
  __shared__ float partial[Threads / 32];
  float value = 0.0f;
  for (int64_t i = blockIdx.x * Threads + threadIdx.x; i < size; i += static_cast<int64_t>(gridDim.x) * Threads) {
    value += source[i];
  }
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x < 32) {
    value = threadIdx.x < Threads / 32 ? partial[threadIdx.x] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
    if (threadIdx.x == 0) atomicAdd(target, value);
  }
}

// (32, 32) tiles turned through shared memory; `size` is the side of the matrix, a multiple of 32. Without the barrier
// a thread reads what another may not have written yet.
template <bool Barrier>
__global__ void transpose(const float* source, float* target, int64_t size) {
  __shared__ float tile[32][33];
  const int64_t x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  tile[threadIdx.y][threadIdx.x] = source[y * size + x];
  if constexpr (Barrier) __syncthreads();
  target[(blockIdx.x * 32 + threadIdx.y) * size + blockIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][threadIdx.y];
}

// Doubles what it reads by packs of four, in a grid-stride loop; source + Offset must be 16-byte aligned.
template <int Offset>
__global__ void twice(const float* source, float* target, int64_t size) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < (size - Offset) / 4; i += step) {
    gpu::Pack<float, 4> pack = gpu::load<4>(source + Offset + i * 4);
    for (int k = 0; k < 4; ++k) pack[k] *= 2.0f;
    gpu::store(target + Offset + i * 4, pack);
  }
}

__global__ void divergent_barrier(const float*, float* target, int64_t) {
  if (threadIdx.x < 7) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  target[threadIdx.x] = 1.0f;
}

__global__ void exit_before_barrier(const float*, float* target, int64_t) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  target[threadIdx.x] = 1.0f;
}

__global__ void lane_missing_from_shuffle(const float*, float* target, int64_t) {
  if (threadIdx.x != 5) target[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0);
}

// Lanes of one warp at different instructions.
__global__ void divergent_warp(const float*, float* target, int64_t) {
  if (threadIdx.x < 16) {
    target[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0);
  } else {
    __syncwarp();
  }
}

__global__ void mask_without_caller(const float*, float* target, int64_t) {
  target[threadIdx.x] = __shfl_sync(0x1u, 1.0f, 0);
}

// Half warps shuffle by masks of their own, in an order of their own.
__global__ void half_warps(const float* source, float* target, int64_t) {
  const unsigned int mask = threadIdx.x % 32 < 16 ? 0xffffu : 0xffff0000u;
  float value = source[threadIdx.x];
  for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(mask, value, offset, 16);
  const unsigned int ballot = __ballot_sync(mask, source[threadIdx.x] > 0.0f);
  __syncwarp();
  target[threadIdx.x] = value + static_cast<float>(__popc(ballot));
}

// What a block finds in shared memory that nobody wrote.
__global__ void read_unwritten(const float*, float* target, int64_t) {
  __shared__ float never[32];
  target[threadIdx.x] = never[threadIdx.x] + gpu::shared_memory<float>()[threadIdx.x];
  never[threadIdx.x] = gpu::shared_memory<float>()[threadIdx.x] = 1.0f;
}

// `size` floats of dynamic shared memory are given; thread t touches float t.
__global__ void dynamic_read(const float*, float* target, int64_t) {
  target[threadIdx.x] = gpu::shared_memory<float>()[threadIdx.x];
}
__global__ void dynamic_write(const float*, float* target, int64_t) {
  gpu::shared_memory<float>()[threadIdx.x] = 1.0f;
  target[threadIdx.x] = 1.0f;
}

__global__ void static_out_of_range(const float*, float* target, int64_t size) {
  __shared__ float few[8];
  few[size + threadIdx.x] = 1.0f;
  target[threadIdx.x] = few[threadIdx.x];
}

__global__ void wild_read(const float*, float* target, int64_t) {
  target[threadIdx.x] = *reinterpret_cast<const float*>(static_cast<uintptr_t>(64));
}

__global__ void index_overflow(const float* source, float* target, int64_t size) {
  const int large = static_cast<int>(size) << 20;
  target[0] = source[(large + large) & 1];
}

int deep(int n) {
  volatile char frame[4096];
  frame[n % 4096] = 1;
  return n > 0 ? deep(n - 1) + frame[n % 4096] : 0;
}
__global__ void stack_overflow(const float*, float* target, int64_t) { target[0] = static_cast<float>(deep(1000)); }

}  // namespace

gpu::Error launch_layer(const Case& c, gpu::Stream stream) {
  const auto run = [&](auto kernel, dim3 grid, dim3 block, size_t shared = 0) {
    return gpu::launch(kernel, grid, block, shared, stream, c.source, c.target, c.size);
  };
  const auto is = [&](const char* name) { return std::strcmp(c.name, name) == 0; };
  const dim3 one(1), threads(static_cast<unsigned int>(c.threads));
  const auto tiles = static_cast<unsigned int>(c.size / 32);
  const size_t shared = static_cast<size_t>(c.size) * sizeof(float);
  if (is("sum")) return run(sum<128>, dim3(3), dim3(128));
  if (is("transpose")) return run(transpose<true>, dim3(tiles, tiles), dim3(32, 32));
  if (is("transpose_without_barrier")) return run(transpose<false>, dim3(tiles, tiles), dim3(32, 32));
  if (is("twice")) return run(twice<0>, dim3(2), threads);
  if (is("twice_misaligned")) return run(twice<1>, dim3(2), threads);
  if (is("divergent_barrier")) return run(divergent_barrier, one, threads);
  if (is("exit_before_barrier")) return run(exit_before_barrier, one, threads);
  if (is("lane_missing_from_shuffle")) return run(lane_missing_from_shuffle, one, threads);
  if (is("divergent_warp")) return run(divergent_warp, one, threads);
  if (is("mask_without_caller")) return run(mask_without_caller, one, threads);
  if (is("half_warps")) return run(half_warps, one, threads);
  if (is("read_unwritten")) return run(read_unwritten, dim3(2), threads, 128);
  if (is("dynamic_read")) return run(dynamic_read, one, threads, shared);
  if (is("dynamic_write")) return run(dynamic_write, one, threads, shared);
  if (is("static_out_of_range")) return run(static_out_of_range, one, threads);
  if (is("wild_read")) return run(wild_read, one, threads);
  if (is("index_overflow")) return run(index_overflow, one, threads);
  if (is("stack_overflow")) return run(stack_overflow, one, threads);
  return "no such kernel";
}

}  // namespace codeshell::layer
