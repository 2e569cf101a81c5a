// An error of CUDA's runtime in words: its number and name, what CUDA says, and what the user can do. Host code of the
// CUDA build only.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>

namespace codeshell::gpu {

// What helps against an error, or an empty string.
inline const char* remedy(cudaError_t status) {
  switch (status) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "; this build has no code of the kernel for this GPU: `codeshell info` shows what it has, and "
             "CODESHELL_ARCHITECTURES=native at the installation adds what the GPU can run";
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return "; update the NVIDIA driver, or install codeshell again with the nvcc of a CUDA that this driver serves "
             "(nvidia-smi shows which)";
    case cudaErrorInitializationError:
      return "; CUDA does not work in a process that was forked after it was used: start workers by 'spawn'";
    case cudaErrorNoDevice:
    case cudaErrorDevicesUnavailable:
      return "; no GPU is free for this process: look at CUDA_VISIBLE_DEVICES and at nvidia-smi's compute mode";
    case cudaErrorInvalidResourceHandle:
      return "; the stream is not one of the current device: call under torch.cuda.device(tensor.device), with a "
             "stream "
             "of that device";
    case cudaErrorLaunchOutOfResources:
      return "; the block has more registers or threads than the device allows, as kernels built for debugging may";
    case cudaErrorMemoryAllocation:
      return "; no memory is left on the device for the kernel's code: free some (torch.cuda.empty_cache())";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureWrongThread:
      return "; a CUDA graph is captured: call the operation once before the capture, and in it on the capturing "
             "stream";
    // These are of kernels that ran before, and leave the process without its GPU.
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
      return "; a kernel that ran earlier failed, not necessarily this one: start again with CUDA_LAUNCH_BLOCKING=1 to "
             "see which";
    default: return "";
  }
}

// The text stands until the thread's next error. The runtime's own note of the error is cleared: it is reported here,
// and must not fail a later call.
inline const char* runtime_error(cudaError_t status) {
  static thread_local char text[640];
  cudaGetLastError();
  std::snprintf(text, sizeof text, "CUDA error %d (%s): %s%s", static_cast<int>(status), cudaGetErrorName(status),
                cudaGetErrorString(status), remedy(status));
  return text;
}

}  // namespace codeshell::gpu
