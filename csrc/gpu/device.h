// Which GPUs this machine has. One header for both builds: device.cu answers with CUDA, device_none.cpp without.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace codeshell::gpu {

struct Device {
  std::string name;
  int major;
  int minor;
  int multiprocessors;
  int64_t memory_bytes;
};

// Whether this build has CUDA, and for which architectures ("90a"; empty without CUDA).
bool cuda_built();
std::string cuda_architectures();

// "path=hash;path=hash" of the kernels' sources; written at build time by codeshell/kernels.py.
std::string kernel_sources();

// Empty where there is no driver or no device; never throws, so the module imports anywhere.
std::vector<Device> list_devices();

}  // namespace codeshell::gpu
