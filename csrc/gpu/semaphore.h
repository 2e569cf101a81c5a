// Counters in global memory by which blocks wait for each other.
//
// A block may only wait for blocks that have started: blocks of one launch run in no given order and not all at once.
// Take a ticket (atomicAdd on a counter) for the block's place and wait for smaller tickets only; then the block with
// the smallest that is not done never waits, and none waits for ever. Where the last of several blocks is to use
// what all of them made, nobody has to wait: counter_arrive tells which one is last.
#pragma once

#include "gpu/check.h"
#include "gpu/cuda.h"

namespace codeshell::gpu {

#if defined(__CUDACC__)

// Waits until *counter is at least `value`. What other blocks did before the additions that made it so is then visible.
#if defined(CODESHELL_CHECKED_KERNELS)
__device__ __forceinline__ void semaphore_wait(const int* counter, int value, CODESHELL_PLACE) {
  WaitLimit limit;
  for (;;) {
    int seen;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    if (seen >= value) return;
    limit.again("a semaphore", counter, value, seen, file, line);
  }
}
#else
__device__ __forceinline__ void semaphore_wait(const int* counter, int value) {
  int seen;
  do {
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  } while (seen < value);
}
#endif

// Adds 1, after all that this thread did before.
__device__ __forceinline__ void semaphore_add(int* counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], %1;" ::"l"(counter), "r"(1) : "memory");
}

// Adds 1 and returns how much it was before. By one thread, between two barriers of its block: what the block did
// before the first one is then visible to the blocks that arrive later, after their second one. Cheaper than a
// __threadfence of every thread, which is sequentially consistent.
__device__ __forceinline__ unsigned int counter_arrive(unsigned int* counter) {
  unsigned int before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Between a semaphore and bulk copies of the same thread to or from global memory, which are of another proxy.
__device__ __forceinline__ void fence_async_proxy_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

#else

// The twins on the host, where one block runs at a time and memory is consistent.

inline void semaphore_wait(const int* counter, int value, host::Site site = host::Site::current()) {
  if (host::left_out("semaphore_wait", site)) return;
  host::wait_until([=] { return *counter >= value; }, "semaphore_wait", site);
}
inline void semaphore_add(int* counter, host::Site site = host::Site::current()) {
  if (!host::left_out("semaphore_add", site)) ++*counter;
}
inline unsigned int counter_arrive(unsigned int* counter) { return (*counter)++; }
inline void fence_async_proxy_global() {}

#endif

}  // namespace codeshell::gpu
