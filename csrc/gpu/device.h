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

// Whether this build has CUDA.
bool cuda_built();

// The version of the CUDA runtime inside this build (13000 is 13.0; 0 without CUDA), and the newest one that the driver
// of this machine knows (0 without a driver). Never throws.
int cuda_runtime();
int cuda_driver();

// "path=hash;path=hash" of the kernels' sources; written at build time by codeshell/kernels.py.
std::string kernel_sources();

// "path=80,86,80-virtual;path=90a;path=" of the same sources: what each was compiled for, which is nothing in a build
// without CUDA. Written at configuration by csrc/architectures.cmake.
std::string kernel_architectures();
// The same of what each can be compiled for (csrc/kernels.cmake), in every build.
std::string possible_architectures();
// All of them together, for people: "80, 86, 90a, PTX of 80"; empty without CUDA.
std::string cuda_architectures();

// Empty where there is no driver or no device; never throws, so the module imports anywhere.
std::vector<Device> list_devices();

}  // namespace codeshell::gpu
