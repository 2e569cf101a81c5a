// Work by several workers, each with its own scratch memory, where a task may throw.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>

#include "simd/parallel.h"

namespace codeshell::dedup {

// Calls work(worker, task) once for every task; of two calls that run at the same time, the workers (0 .. workers - 1)
// differ. After an exception no task begins any more, and one of those thrown is thrown again here.
template <class Work>
void share_tasks(unsigned workers, size_t tasks, const Work& work) {
  std::atomic<size_t> next{0};
  std::mutex failing;
  std::exception_ptr failure;
  simd::parallel_for(static_cast<int>(workers), workers, [&](std::int64_t worker) {
    try {
      for (size_t task; (task = next.fetch_add(1)) < tasks;) work(static_cast<size_t>(worker), task);
    } catch (...) {
      next = tasks;
      const std::lock_guard lock(failing);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace codeshell::dedup
