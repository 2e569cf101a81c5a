// The device query of a build with CUDA. cudart is linked statically: on a machine with no driver the first call
// reports an error, which means "no devices" here.

#include <cuda_runtime.h>

#include "gpu/device.h"

namespace codeshell::gpu {

// Compiled into the extension: it needs no driver.
bool cuda_built() { return true; }

int cuda_runtime() { return CUDART_VERSION; }

int cuda_driver() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

std::vector<Device> list_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // clear it: a missing driver must not fail a later call
    return {};
  }
  std::vector<Device> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    // A device that cannot be asked is left out.
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    devices.push_back({properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                       static_cast<int64_t>(properties.totalGlobalMem)});
  }
  return devices;
}

}  // namespace codeshell::gpu
