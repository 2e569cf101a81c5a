// Copies bytes: each thread moves kUnroll packs of 16 bytes, all of which it reads before it writes, so that enough
// loads are in flight to hide the memory's latency. The last few bytes go one by one.
//
// Tile: 256 threads x 4 packs, 16 KiB per block and round. No shared memory; at most 40 registers
// (tests/gpu/test_cubins.py). Floor: it is the floor. Measured: not run on a GPU.

#include "gpu/cuda.h"
//
#include "copy/copy.h"
#include "gpu/launch.h"
#include "gpu/vector.h"

namespace codeshell {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kBytes = 16;

__global__ void __launch_bounds__(kThreads) copy(const uint8_t* source, uint8_t* target, int64_t bytes) {
  // Blocks walk over the array in steps of the whole grid.
  const int64_t packs = bytes / kBytes;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kUnroll;
  for (int64_t first = (static_cast<int64_t>(blockIdx.x) * kUnroll) * kThreads + threadIdx.x; first < packs;
       first += step) {
    gpu::Pack<uint8_t, kBytes> values[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t pack = first + i * kThreads;
      if (pack < packs) values[i] = gpu::load_streaming<kBytes>(source + pack * kBytes);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t pack = first + i * kThreads;
      if (pack < packs) gpu::store_streaming(target + pack * kBytes, values[i]);
    }
  }
  // Fewer than 16 bytes are left.
  const int64_t rest = packs * kBytes + threadIdx.x;
  if (blockIdx.x == 0 && rest < bytes) target[rest] = source[rest];
}

}  // namespace

gpu::Error launch_copy(const CopyArguments& arguments, gpu::Stream stream) {
  const int64_t per_block = static_cast<int64_t>(kThreads) * kUnroll * kBytes;
  const int64_t blocks = (arguments.bytes + per_block - 1) / per_block;
  if (blocks == 0) return nullptr;
  // At most 8 blocks per multiprocessor: with 256 threads each, as many as it can hold.
  const int64_t resident = static_cast<int64_t>(gpu::multiprocessors()) * 8;
  return gpu::launch(copy, dim3(static_cast<unsigned int>(blocks < resident ? blocks : resident)), dim3(kThreads), 0,
                     stream, static_cast<const uint8_t*>(arguments.source), static_cast<uint8_t*>(arguments.target),
                     arguments.bytes);
}

}  // namespace codeshell
