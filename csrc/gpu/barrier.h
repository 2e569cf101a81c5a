// Named barriers: some of a block's warps wait for each other. A block has 16; barrier 0 is __syncthreads.
//
// barrier_sync arrives and waits; barrier_arrive only arrives. So one group of warps can let another one pass without
// waiting itself, which is how attention's consumers pass their turn. The barrier starts anew once all have arrived.
#pragma once

#include "gpu/cuda.h"

namespace codeshell::gpu {

// `threads` counts those that sync and those that only arrive; a multiple of 32, the same in all calls of a phase.
// Index 1 to 15. What the threads did to memory before they arrived is visible to those that synced.
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
