// Named barriers: some of a block's warps wait for each other. Barrier 0 is __syncthreads.
#pragma once

#include "gpu/cuda.h"

namespace codeshell::gpu {

// `threads` counts those that sync and those that only arrive; a multiple of 32. Index 1 to 15.
#if defined(__CUDACC__)
__device__ __forceinline__ void barrier_sync(int index, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(index), "r"(threads) : "memory");
}
__device__ __forceinline__ void barrier_arrive(int index, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(index), "r"(threads) : "memory");
}
#else
inline void barrier_sync(int index, int threads, host::Site site = host::Site::current()) {
  host::barrier_sync(index, threads, site);
}
inline void barrier_arrive(int index, int threads, host::Site site = host::Site::current()) {
  host::barrier_arrive(index, threads, site);
}
#endif

}  // namespace codeshell::gpu
