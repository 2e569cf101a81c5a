// Kernels that try the primitives of csrc/gpu one at a time. Only the tests build them.
#pragma once

#include <cstdint>

#include "gpu/launch.h"
#include "gpu/tma.h"

namespace codeshell::primitives {

// One box: "load" copies it to shared memory and shared memory's bytes to `image`; "store" and "add" the other way.
struct Box {
  const char* name;
  gpu::TensorShape shape;
  int coordinates[4];
  void* image;
};
gpu::Error launch_box(const Box& arguments, gpu::Stream stream);

// D (64, n) = A (64, 64) B (64, n) by four wgmmas. A and B are images of shared memory; A's registers are (4 steps, 128
// threads, 4). D is (128 threads, n / 2).
struct Gemm {
  const char* variant;  // "right", "no_wait", "no_fence"
  int n;
  bool bf16;
  char a;  // 'k', 'm' or 'r'
  char b;  // 'k' or 'n'
  const void* a_image;
  const void* b_image;
  float* d;
};
gpu::Error launch_gemm(const Gemm& arguments, gpu::Stream stream);

// target[i] = 2 source[i] + the sum of tile i / 256's neighbours, by a producer warp and two consumer warps over a ring
// of two stages. `size` is a multiple of 256.
struct Pipeline {
  const char* variant;  // "right" or what is wrong
  const float* source;
  float* target;
  int size;
};
gpu::Error launch_pipeline(const Pipeline& arguments, gpu::Stream stream);

// Named barriers, elect and setmaxnreg.
struct Roles {
  const char* variant;
  int* target;
};
gpu::Error launch_roles(const Roles& arguments, gpu::Stream stream);

}  // namespace codeshell::primitives
