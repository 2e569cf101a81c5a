// mbarrier: a barrier in shared memory with phases, on which threads arrive and asynchronous copies count their bytes.
//
// A phase ends when all arrivals and all expected bytes are there; the next begins at once. wait(parity) returns when
// the phase of that parity has ended: the first is 0, then 1, 0, … A waiter may be one phase late, not two.
#pragma once

#include <cstdint>

#include "gpu/cuda.h"
#include "gpu/ptx.h"

namespace codeshell::gpu {

struct alignas(8) Mbarrier {
  uint64_t word;

#if defined(__CUDACC__)
  // By one thread, before fence_mbarrier_init and a block barrier.
  __device__ __forceinline__ void init(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  // Arrives, and the phase waits for so many more bytes.
  __device__ __forceinline__ void arrive_expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }
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
  __device__ __forceinline__ void wait(uint32_t parity) {
    while (!try_wait(parity)) {
    }
  }
#else
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
