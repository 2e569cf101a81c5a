// Single instructions of sm_90a that C++ has no words for: addresses in the shared window, one thread of a warp, fences
// between the generic and the asynchronous proxy, registers moved between warpgroups.
//
// A proxy is a path to memory. Ordinary loads and stores take the generic one, TMA, bulk copies and wgmma the
// asynchronous one. A barrier orders accesses within a proxy; between the two a fence is needed as well.
#pragma once

#include <cstdint>

#include "gpu/check.h"
#include "gpu/cuda.h"
#if defined(CODESHELL_HOST_GPU)
#include "gpu/host/async.h"
#endif

namespace codeshell::gpu {

inline constexpr int kWarpgroup = 128;

// Registers of a multiprocessor, and those of a thread in a block of so many that has one for itself: as many as there
// are, in steps of 8. That is what ptxas gives a kernel with __launch_bounds__(threads, 1) that moves registers.
inline constexpr int kRegisters = 64 * 1024;
constexpr int registers_at_start(int threads) { return kRegisters / threads / 8 * 8; }

// Whether the warpgroups of a block can have so many registers per thread each: not more in all than at the start.
// Raising waits until enough are free, so one too many is a kernel that never ends.
template <class... Counts>
constexpr bool registers_fit(Counts... counts) {
  constexpr int kWarpgroups = sizeof...(counts);
  return (counts + ...) <= kWarpgroups * registers_at_start(kWarpgroups * kWarpgroup);
}

#if defined(__CUDACC__)

// The address within the block's shared memory, 32 bits, as PTX and descriptors take it.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The number of the thread's warpgroup in the block; called by a converged warp. A shuffle tells the compiler that all
// lanes have the same number. What is computed from it is then in uniform registers, where wgmma takes its descriptors
// from; otherwise each product would first move its own there.
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

// What this thread wrote to shared memory before the fence is seen by TMA and wgmma after it. Every thread that wrote
// calls it; a barrier after it then makes sure that all have done so before one of them issues the copy or product.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Makes the initialisation of mbarriers visible to the asynchronous proxy. By the thread that initialised them.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// The registers that a thread of this warpgroup may use from here on; all of its warps call it. A multiple of 8, 24 to
// 256. raise waits until so many are free: the producer's warpgroup must lower its own. Both count from what ptxas gave
// the kernel; -G, and tools that patch kernels, change that number, so builds for debugging move none.
template <int Registers>
__device__ __forceinline__ void raise_registers() {
  static_assert(Registers % 8 == 0 && 24 <= Registers && Registers <= 256);
#if !defined(CODESHELL_CHECKED_KERNELS)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}
template <int Registers>
__device__ __forceinline__ void lower_registers() {
  static_assert(Registers % 8 == 0 && 24 <= Registers && Registers <= 256);
#if !defined(CODESHELL_CHECKED_KERNELS)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}

#else

// The twins on the host. Writes are seen by copies and products at once there, so fences do nothing.

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
