#include "attention/attention_cpu.h"

#include <algorithm>
#include <vector>

#include "simd/parallel.h"

namespace codeshell::attention {

namespace {

using Task = void (*)(const Problem&, long sequence, long kv, float* scratch);

// Floats that a task needs for its longest sequence: `copies` of the keys (each rounded up to a vector), and blocks.
std::size_t scratch_size(const Problem& p, long copies) {
  std::int64_t keys = 0;
  for (std::int64_t i = 0; i < p.sequences; ++i)
    keys = std::max<std::int64_t>(keys, p.key_offsets[i + 1] - p.key_offsets[i]);
  return static_cast<std::size_t>(copies * (keys + 16) * p.dim + 48 * (4 * p.dim + 3 * 144));
}

void run(const Problem& p, int threads, Task task, long copies) {
  const std::size_t size = scratch_size(p, copies);
  simd::parallel_for(threads, p.sequences * p.kv_heads, [&](std::int64_t i) {
    thread_local std::vector<float> scratch;
    if (scratch.size() < size) scratch.resize(size);
    const long sequence = static_cast<long>(i / p.kv_heads);
    if (p.query_offsets[sequence] == p.query_offsets[sequence + 1] &&
        p.key_offsets[sequence] == p.key_offsets[sequence + 1])
      return;
    task(p, sequence, static_cast<long>(i % p.kv_heads), scratch.data());
  });
}

}  // namespace

void forward(const Problem& problem, int threads) { run(problem, threads, cpu_kernels().attend, 3); }

void backward(const Problem& problem, int threads) { run(problem, threads, cpu_kernels().differentiate, 5); }

}  // namespace codeshell::attention
