// GELU on the CPU: shares a tensor between threads; gelu_cpu.inc has the arithmetic.
#include "activation/gelu_cpu.h"

#include <algorithm>

#include "simd/parallel.h"

namespace codeshell::activation {

namespace {

// Elements of one task: a few dozen microseconds, against about one for handing it out.
constexpr std::int64_t kTask = 1 << 16;

// work(first element, how many) for each task.
template <class F>
void by_tasks(std::int64_t n, int threads, F&& work) {
  simd::parallel_for(threads, (n + kTask - 1) / kTask,
                     [&](std::int64_t i) { work(i * kTask, static_cast<long>(std::min(kTask, n - i * kTask))); });
}

}  // namespace

// Each task is a run of elements; kernels take addresses, so runs start at a number of bytes.
void gelu(const void* x, void* y, std::int64_t n, bool bf16, int threads) {
  const std::int64_t size = bf16 ? 2 : 4;
  by_tasks(n, threads, [&](std::int64_t at, long m) {
    cpu_kernels().gelu(static_cast<const char*>(x) + at * size, static_cast<char*>(y) + at * size, m, bf16);
  });
}

void gelu_backward(const void* x, const void* dy, void* grad, std::int64_t n, bool bf16, int threads) {
  const std::int64_t size = bf16 ? 2 : 4;
  by_tasks(n, threads, [&](std::int64_t at, long m) {
    cpu_kernels().gelu_backward(static_cast<const char*>(x) + at * size, static_cast<const char*>(dy) + at * size,
                                static_cast<char*>(grad) + at * size, m, bf16);
  });
}

}  // namespace codeshell::activation
