// The device query of a build without CUDA.

#include "gpu/device.h"

namespace codeshell::gpu {

bool cuda_built() { return false; }

std::string cuda_architectures() { return ""; }

std::vector<Device> list_devices() { return {}; }

}  // namespace codeshell::gpu
