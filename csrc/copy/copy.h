// A copy of device memory: the floor that a memory-bound kernel's time is measured against, in the same run.
#pragma once

#include <cstdint>

#include "gpu/launch.h"

namespace codeshell {

struct CopyArguments {
  const void* source;
  void* target;
  int64_t bytes;  // source and target 16-byte aligned and apart
};

// Neither synchronises nor allocates. No bytes, no launch.
gpu::Error launch_copy(const CopyArguments& arguments, gpu::Stream stream);

}  // namespace codeshell
