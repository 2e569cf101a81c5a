// The device query of a build without CUDA.

#include "gpu/device.h"

namespace codeshell::gpu {

bool cuda_built() { return false; }

int cuda_runtime() { return 0; }

int cuda_driver() { return 0; }

std::vector<Device> list_devices() { return {}; }

}  // namespace codeshell::gpu
