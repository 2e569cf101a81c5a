// Checks in kernels that cost nothing where kernels have to be fast: conditions that hold unless the caller's data is
// wrong, and limits on the time that a thread waits for others.
//
// They are compiled into the host execution, and into CUDA builds for debugging (CODESHELL_DEBUG_KERNELS, no NDEBUG, or
// nvcc -G). Both say what is wrong and where, and end the kernel. Other builds have neither: kernels must stay safe
// without the first, and a wait that never ends hangs the GPU there. Builds for debugging also move no registers
// between warpgroups (gpu/ptx.h), because tools and -G change how many a kernel has.
#pragma once

#include "gpu/cuda.h"
#if !defined(__CUDACC__)
#include <string>
#elif defined(CODESHELL_DEBUG_KERNELS) || !defined(NDEBUG) || defined(__CUDACC_DEBUG__)
#include <cstdio>
#define CODESHELL_CHECKED_KERNELS 1
#endif

namespace codeshell::gpu {

#if !defined(__CUDACC__)
inline void check(bool holds, const char* what, int value, host::Site site = host::Site::current()) {
  if (!holds && host::options().checks) host::fail(std::string(what) + ": " + std::to_string(value), site);
}
#elif !defined(CODESHELL_CHECKED_KERNELS)
__device__ __forceinline__ void check(bool, const char*, int) {}
#else
__device__ __forceinline__ void check(bool holds, const char* what, int value) {
  if (holds) return;
  printf("codeshell: block %u, thread %u: %s: %d\n", blockIdx.x, threadIdx.x, what, value);
  __trap();
}

// How long a thread may wait. The longest right wait is that of a block for those before it, less than the kernel's
// time; a tool that slows kernels down a hundredfold needs more.
#if !defined(CODESHELL_WAIT_SECONDS)
#define CODESHELL_WAIT_SECONDS 2
#endif

// Where a wait is in the source: an argument's default is evaluated where the function is called.
#define CODESHELL_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// Ends the kernel once a wait has lasted too long. Of the waiting loop: again() after each try that failed. The message
// has what is waited for, a barrier's parity or a counter's number, and what is there instead.
class WaitLimit {
 public:
  __device__ __forceinline__ void again(const char* what, const void* address, long long expected, long long found,
                                        const char* file, int line) {
    unsigned long long now;  // in nanoseconds, also while the multiprocessor runs other work
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (start_ == 0) start_ = now;
    if (now - start_ < CODESHELL_WAIT_SECONDS * 1000000000ull) return;
    printf("codeshell: block %u, thread %u: waits for more than %d s at %s of %s:%d: at %p for %lld, found %#llx\n",
           blockIdx.x, threadIdx.x, CODESHELL_WAIT_SECONDS, what, file, line, address, expected, found);
    __trap();
  }

 private:
  unsigned long long start_ = 0;
};
#endif

}  // namespace codeshell::gpu
