// Shares the tasks of attention on the CPU between threads; attention_cpu.inc has the arithmetic.
#include "attention/attention_cpu.h"

#include <algorithm>
#include <vector>

#include "simd/parallel.h"

namespace codeshell::attention {

namespace {

using Task = void (*)(const Problem&, long sequence, long kv, float* scratch);

// Floats that a task needs for the longest sequence: `copies` of its keys (each rounded up to a vector of at most 16),
// and what it holds of one block of 48 queries.
std::size_t scratch_size(const Problem& p, long copies) {
  std::int64_t keys = 0;
  for (std::int64_t i = 0; i < p.sequences; ++i)
    keys = std::max<std::int64_t>(keys, p.key_offsets[i + 1] - p.key_offsets[i]);
  return static_cast<std::size_t>(copies * (keys + 16) * p.dim + 48 * (4 * p.dim + 3 * 144));
}

void run(const Problem& p, int threads, Task task, long copies) {
  const std::size_t size = scratch_size(p, copies);
  simd::parallel_for(threads, p.sequences * p.kv_heads, [&](std::int64_t i) {
    // Each thread keeps its memory from call to call.
    thread_local std::vector<float> scratch;
    if (scratch.size() < size) scratch.resize(size);
    const long sequence = static_cast<long>(i / p.kv_heads);
    // An empty sequence has nothing to write. One with keys alone still has its gradients, zeros.
    if (p.query_offsets[sequence] == p.query_offsets[sequence + 1] &&
        p.key_offsets[sequence] == p.key_offsets[sequence + 1])
      return;
    task(p, sequence, static_cast<long>(i % p.kv_heads), scratch.data());
  });
}

}  // namespace

// Copies: K, V and K transposed; backward also dK and dV, and V transposed in place of V.
void forward(const Problem& problem, int threads) { run(problem, threads, cpu_kernels().attend, 3); }

void backward(const Problem& problem, int threads) { run(problem, threads, cpu_kernels().differentiate, 5); }

}  // namespace codeshell::attention
