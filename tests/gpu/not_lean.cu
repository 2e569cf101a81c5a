// A kernel with everything that test_cubins.py must notice: a stack frame, local memory, 4-byte accesses.

#include "gpu/cuda.h"

__global__ void not_lean(const float* source, float* target, int n) {
  float values[64];
  for (int i = 0; i < n; ++i) values[i & 63] = source[i];
  for (int i = 0; i < n; ++i) target[i] = values[(i * 7 + threadIdx.x) & 63];
}
