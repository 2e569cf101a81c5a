// Cross-entropy and its gradient over rows of logits, in place; the arithmetic is in cross_entropy_cpu.inc.
#pragma once

#include <cstdint>

namespace codeshell::loss {

// What is compiled once per instruction set (cross_entropy_cpu.inc); csrc/cpu chooses.
struct CpuKernels {
  // One row of logits becomes its gradient (softmax - one-hot) * scale; returns the loss in nats.
  float (*cross_entropy)(void* logits, long n, long target, float scale, bool bf16, float* scratch);
};
const CpuKernels& cpu_kernels();

// logits (rows, n), fp32 or bf16, becomes (softmax - one-hot) * scale, zeros where targets[r] == ignore_index;
// losses[r] is the loss of the row in nats, 0 where ignored. Targets must lie in [0, n) or equal ignore_index.
void cross_entropy(void* logits, std::int64_t rows, std::int64_t n, const std::int64_t* targets,
                   std::int64_t ignore_index, float scale, float* losses, bool bf16, int threads);

}  // namespace codeshell::loss
