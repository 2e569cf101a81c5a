// Cross-entropy on the CPU: shares rows of logits between threads; cross_entropy_cpu.inc has the arithmetic.
#include "loss/cross_entropy_cpu.h"

#include <algorithm>
#include <vector>

#include "simd/parallel.h"

namespace codeshell::loss {

void cross_entropy(void* logits, std::int64_t rows, std::int64_t n, const std::int64_t* targets,
                   std::int64_t ignore_index, float scale, float* losses, bool bf16, int threads) {
  // Rows of one task.
  constexpr std::int64_t block = 16;
  simd::parallel_for(threads, (rows + block - 1) / block, [&](std::int64_t i) {
    // Each thread keeps its row of fp32 from call to call; 16 floats more, because kernels work on whole vectors.
    thread_local std::vector<float> scratch;
    if (scratch.size() < static_cast<std::size_t>(n + 16)) scratch.resize(static_cast<std::size_t>(n + 16));
    for (std::int64_t r = i * block; r < std::min(rows, (i + 1) * block); ++r) {
      void* row = static_cast<char*>(logits) + r * n * (bf16 ? 2 : 4);
      const long target = targets[r] == ignore_index ? -1 : static_cast<long>(targets[r]);
      losses[r] = cpu_kernels().cross_entropy(row, static_cast<long>(n), target, scale, bf16, scratch.data());
    }
  });
}

}  // namespace codeshell::loss
