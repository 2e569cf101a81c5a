// mbarrier: a barrier in shared memory with phases, on which threads arrive and asynchronous copies count their bytes.
//
// A phase ends when all arrivals and all expected bytes are there; the next begins at once. wait(parity) returns when
// the phase of that parity has ended: the first is 0, then 1, 0, … The phase "before the first" has parity 1 and counts
// as ended, so wait(1) on a fresh barrier returns at once. A waiter may be one phase late, not two: then the parity is
// the same again.
//
// A ring of stages has two barriers for each stage. `full`: the producer's one arrive_expect, completed by the bytes of
// its loads; consumers wait for it. `empty`: one arrival per consumer warp; the producer waits for it before it fills
// the stage again.
#pragma once

#include <cstdint>

#include "gpu/check.h"
#include "gpu/cuda.h"
#include "gpu/ptx.h"

namespace codeshell::gpu {

struct alignas(8) Mbarrier {
  uint64_t word;

#if defined(__CUDACC__)
  // Sets how many arrivals end a phase. By one thread, before fence_mbarrier_init and a block barrier.
  __device__ __forceinline__ void init(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
  }
  // One arrival; orders what the thread did before it (release).
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  // One arrival, after which the phase waits for so many more bytes of copies.
  __device__ __forceinline__ void arrive_expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }
  // Whether the phase has ended. The hardware may suspend the thread for a while before it answers no.
  __device__ __forceinline__ bool try_wait(uint32_t parity) {
    uint32_t ended = 0;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(ended)
        : "r"(shared_address(this)), "r"(parity)
        : "memory");
    return ended != 0;
  }
  // After it, what was done before the arrivals, and the bytes of the copies, are visible (acquire).
#if defined(CODESHELL_CHECKED_KERNELS)
  __device__ __forceinline__ void wait(uint32_t parity, CODESHELL_PLACE) {
    WaitLimit limit;
    while (!try_wait(parity)) {
      limit.again("an mbarrier", this, parity, static_cast<long long>(*static_cast<volatile uint64_t*>(&word)), file,
                  line);
    }
  }
#else
  __device__ __forceinline__ void wait(uint32_t parity) {
    while (!try_wait(parity)) {
    }
  }
#endif
#else
  // The twins on the host (gpu/host/async.cpp), which keep the phase in the same word.
  void init(uint32_t arrivals, host::Site site = host::Site::current()) { host::mbarrier_init(&word, arrivals, site); }
  void arrive(host::Site site = host::Site::current()) { host::mbarrier_arrive(&word, 0, site); }
  void arrive_expect(uint32_t bytes, host::Site site = host::Site::current()) {
    host::mbarrier_arrive(&word, bytes, site);
  }
  bool try_wait(uint32_t parity, host::Site site = host::Site::current()) {
    return host::mbarrier_try_wait(&word, parity, site);
  }
  void wait(uint32_t parity, host::Site site = host::Site::current()) { host::mbarrier_wait(&word, parity, site); }
#endif
};

}  // namespace codeshell::gpu
