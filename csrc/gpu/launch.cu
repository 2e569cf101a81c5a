// What launchers ask about the device.

#include "gpu/cuda.h"
#include "gpu/launch.h"

namespace codeshell::gpu {

// Asked once per device, because a launch on the host should take little longer than cudaLaunchKernel.
int multiprocessors() {
  constexpr int kDevices = 64;
  static int counts[kDevices];  // zero until asked; a race writes the same number twice
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= kDevices) return 1;
  if (counts[device] == 0) cudaDeviceGetAttribute(&counts[device], cudaDevAttrMultiProcessorCount, device);
  return counts[device] > 0 ? counts[device] : 1;
}

// Where the device cannot be asked or changed, nothing is set back: the launch itself reports the error.
OnDevice::OnDevice(int device) {
  int current = 0;
  if (cudaGetDevice(&current) == cudaSuccess && current != device && cudaSetDevice(device) == cudaSuccess)
    before_ = current;
}

// Back to the device that was current, if it was changed.
OnDevice::~OnDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace codeshell::gpu
