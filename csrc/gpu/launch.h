// How a kernel is launched. The first half is what a launcher's header needs and includes nothing of CUDA; the second
// half exists in kernel sources only (those that included gpu/cuda.h before).
//
// A launch neither synchronises nor allocates, so that it may be captured into a CUDA graph.
#pragma once

#include <cstddef>

#include "gpu/error.h"

namespace codeshell::gpu {

// A cudaStream_t; null is the default stream.
using Stream = void*;

// Whether this build holds kernels: compiled by nvcc, or for the host execution of the tests. In a build without them
// the launchers are declared and not defined; ask by `if constexpr`.
#if defined(CODESHELL_WITH_KERNELS)
inline constexpr bool kHasKernels = true;
#else
inline constexpr bool kHasKernels = false;
#endif

// Whether kernels check their data, limit their waits and keep the registers that they start with (gpu/check.h).
#if defined(CODESHELL_DEBUG_KERNELS) || !defined(NDEBUG)
inline constexpr bool kDebugKernels = true;
#else
inline constexpr bool kDebugKernels = false;
#endif

// How many the current device has; each device is asked once. Only in builds with kernels.
int multiprocessors();

// Bytes of shared memory that a block may have on the current device, which is all but 1 KiB of what a multiprocessor
// has; each device is asked once. Only in builds with kernels.
int shared_memory_per_block();

// While it lives, launches go to this device: tensors may lie on another than the one that is current.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = -1;  // to go back to; -1 where it was this one
};

}  // namespace codeshell::gpu

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <type_traits>

namespace codeshell::gpu {

// What is the same for all kernels (launch.cu). `registers`: what the kernel must have per thread, exactly; 0 is any.
Error launch_kernel(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared, Stream stream, void** arguments,
                    int registers);

// Launches kernel(arguments...) with so many bytes of dynamic shared memory; errors of the launch, not of the run. For
// kernels that move registers between warpgroups, launch_exact also says with how many per thread they must start.
template <class... Parameters>
Error launch_exact(int registers, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared,
                   Stream stream, std::type_identity_t<Parameters>... arguments) {
  // cudaLaunchKernel takes the addresses of the arguments; one more, so that the array is never empty.
  void* pointers[sizeof...(Parameters) + 1] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  return launch_kernel(reinterpret_cast<const void*>(kernel), grid, block, dynamic_shared, stream, pointers, registers);
}
template <class... Parameters>
Error launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared, Stream stream,
             std::type_identity_t<Parameters>... arguments) {
  return launch_exact(0, kernel, grid, block, dynamic_shared, stream, arguments...);
}

}  // namespace codeshell::gpu

#elif defined(CODESHELL_HOST_GPU_LANGUAGE)

#include <type_traits>

namespace codeshell::gpu {

// Runs the grid before it returns, unless the test has it refused; throws std::runtime_error for what would be a fault or
// undefined on a GPU.
template <class... Parameters>
Error launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared, Stream,
             std::type_identity_t<Parameters>... arguments) {
  if (host::refuses_launch()) return "refused by the test";
  host::run_grid(reinterpret_cast<const void*>(kernel), grid, block, dynamic_shared, [&] { kernel(arguments...); });
  return nullptr;
}
template <class... Parameters>
Error launch_exact(int, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_shared, Stream stream,
                   std::type_identity_t<Parameters>... arguments) {
  return launch(kernel, grid, block, dynamic_shared, stream, arguments...);
}

}  // namespace codeshell::gpu

#endif
