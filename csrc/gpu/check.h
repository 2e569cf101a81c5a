// A condition that holds unless the caller's data is wrong. It is checked where that costs nothing that matters: in the
// host execution, and in CUDA builds without NDEBUG (CMAKE_BUILD_TYPE=Debug). Both say what is wrong and where, and end
// the kernel. A release build does not check: kernels must stay safe without it.
#pragma once

#include "gpu/cuda.h"
#if !defined(__CUDACC__)
#include <string>
#elif !defined(NDEBUG)
#include <cstdio>
#endif

namespace codeshell::gpu {

#if !defined(__CUDACC__)
inline void check(bool holds, const char* what, int value, host::Site site = host::Site::current()) {
  if (!holds && host::options().checks) host::fail(std::string(what) + ": " + std::to_string(value), site);
}
#elif defined(NDEBUG)
__device__ __forceinline__ void check(bool, const char*, int) {}
#else
__device__ __forceinline__ void check(bool holds, const char* what, int value) {
  if (holds) return;
  printf("codeshell: block %u, thread %u: %s: %d\n", blockIdx.x, threadIdx.x, what, value);
  __trap();
}
#endif

}  // namespace codeshell::gpu
