// Work by several workers, each with its own scratch memory, where a task may throw.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>

#include "simd/parallel.h"

namespace codeshell::dedup {

// Calls work(worker, task) once for every task. Calls that run at the same time have different workers
// (0 .. workers - 1), so a worker's scratch memory needs no lock. After an exception no more tasks begin, and one of
// the exceptions is thrown again here.
template <class Work>
void share_tasks(unsigned workers, size_t tasks, const Work& work) {
  // Tasks are taken one by one from a shared counter: they are few and of very different sizes.
  std::atomic<size_t> next{0};
  std::mutex failing;
  std::exception_ptr failure;
  simd::parallel_for(static_cast<int>(workers), workers, [&](std::int64_t worker) {
    try {
      for (size_t task; (task = next.fetch_add(1)) < tasks;) work(static_cast<size_t>(worker), task);
    } catch (...) {
      // No more tasks for the other workers.
      next = tasks;
      const std::lock_guard lock(failing);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace codeshell::dedup
