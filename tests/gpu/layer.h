// Kernels that try the host execution itself: some right, some wrong on purpose. Only the tests build them.
#pragma once

#include <cstdint>

#include "gpu/launch.h"

namespace codeshell::layer {

struct Case {
  const char* name;
  const float* source;
  float* target;
  int64_t size;
  int threads;  // a block
};

// ValueError's reason for a name that is none.
gpu::Error launch_layer(const Case& arguments, gpu::Stream stream);

}  // namespace codeshell::layer
