// GELU over whole tensors; the arithmetic is in gelu_cpu.inc.
#pragma once

#include <cstdint>

namespace codeshell::activation {

void gelu(const void* x, void* y, std::int64_t n, bool bf16, int threads);
void gelu_backward(const void* x, const void* dy, void* grad, std::int64_t n, bool bf16, int threads);

}  // namespace codeshell::activation
