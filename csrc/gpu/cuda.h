// What every .cu includes first: CUDA from nvcc, or its language and library as a host compiler can run them.
// See docs/testing-kernels.md.
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#elif defined(CODESHELL_HOST_GPU)
#include "gpu/host/cuda.h"
#else
#error "a kernel source is compiled by nvcc, or with -DCODESHELL_HOST_GPU for the host execution layer"
#endif

namespace codeshell::gpu {

#if defined(__CUDACC__)
// The block's dynamic shared memory, whose size the launch gives; 1024-byte aligned, as swizzled tiles need it. Every
// call returns the same memory.
template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}
#else
template <class T>
T* shared_memory() {
  return static_cast<T*>(host::dynamic_shared_memory(alignof(T)));
}
#endif

}  // namespace codeshell::gpu
