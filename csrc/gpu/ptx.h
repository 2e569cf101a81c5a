// Single instructions of sm_90a that C++ has no words for: addresses in the shared window, one thread of a warp, fences
// between the generic and the asynchronous proxy, registers moved between warpgroups.
#pragma once

#include <cstdint>

#include "gpu/cuda.h"
#if defined(CODESHELL_HOST_GPU)
#include "gpu/host/async.h"
#endif

namespace codeshell::gpu {

inline constexpr int kWarpgroup = 128;

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The thread's warpgroup of the block, by a converged warp: a shuffle tells the compiler that it is one for all lanes.
// What is computed from it is then in uniform registers, where wgmma wants descriptors: else each product first moves
// its own.
__device__ __forceinline__ int warpgroup_index() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
}

// True for one lane of a converged warp, always the same one.
__device__ __forceinline__ bool elect_one() {
  uint32_t elected = 0;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

// What this thread wrote to shared memory before is seen by TMA and wgmma after; then a barrier tells the others.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Makes mbarrier_init visible to the asynchronous proxy.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Registers a thread of this warpgroup may use from here on; all of its warps call it. A multiple of 8, 24 to 256.
template <int Registers>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

#else

inline uint32_t shared_address(const void* pointer, host::Site site = host::Site::current()) {
  return host::shared_address(pointer, site);
}

inline int warpgroup_index() { return static_cast<int>(threadIdx.x) / kWarpgroup; }

inline bool elect_one(host::Site site = host::Site::current()) { return host::elect_one(site); }

inline void fence_async_proxy() {}
inline void fence_mbarrier_init() {}

template <int Registers>
void raise_registers(host::Site site = host::Site::current()) {
  host::set_registers(Registers, true, site);
}
template <int Registers>
void lower_registers(host::Site site = host::Site::current()) {
  host::set_registers(Registers, false, site);
}

#endif

}  // namespace codeshell::gpu
