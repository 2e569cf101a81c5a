#include "simd/parallel.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace codeshell::simd {

namespace {

struct Work {
  const std::function<void(std::int64_t)>* task;
  std::int64_t tasks;
  std::atomic<std::int64_t> next{0};
};

void drain(void* data) {
  auto* work = static_cast<Work*>(data);
  for (std::int64_t i; (i = work->next.fetch_add(1, std::memory_order_relaxed)) < work->tasks;) (*work->task)(i);
}

// What a compiler calls for `#pragma omp parallel`; GNU's, LLVM's and Intel's runtimes all export it. torch loads its
// runtime for everybody to see (RTLD_GLOBAL), so looking it up finds that one without linking a second.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

Parallel openmp() {
  static const Parallel found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

}  // namespace

void parallel_for(int threads, std::int64_t tasks, const std::function<void(std::int64_t)>& task) {
  Work work{&task, tasks};
  threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));
  if (threads <= 1) return drain(&work);
  if (Parallel parallel = openmp()) return parallel(drain, &work, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i) pool.emplace_back(drain, &work);
  drain(&work);
  for (std::thread& thread : pool) thread.join();
}

}  // namespace codeshell::simd
