// Shares tasks between threads by a counter: whoever is free takes the next one.
#include "simd/parallel.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "simd/threads.h"

namespace codeshell::simd {

namespace {

// What all threads of one parallel_for see.
struct Work {
  const std::function<void(std::int64_t)>* task;
  std::int64_t tasks;
  std::atomic<std::int64_t> next{0};
};

// Takes tasks until none is left.
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

// function(data) on `threads` threads, of which this one is one. More than kMaxThreads are of no use, and OpenMP's
// runtime ends the process where the system gives it no more.
void on_threads(int threads, void (*function)(void*), void* data) {
  constexpr int kMaxThreads = 1024;
  threads = std::min(threads, kMaxThreads);
  if (threads <= 1) return function(data);
  if (Parallel parallel = openmp()) return parallel(function, data, static_cast<unsigned>(threads), 0);
  const auto others = start_threads(static_cast<std::size_t>(threads - 1), [=] { function(data); });
  function(data);
}

// The same, with tasks that `maker` is still making: the first `ready` can be worked on; `closed`: there will be no
// more.
struct MadeWork {
  const std::function<bool(std::int64_t)>* make;
  const std::function<void()>* made;
  const std::function<void(std::int64_t)>* task;
  std::int64_t tasks;
  std::thread::id maker;
  std::atomic<std::int64_t> ready{0}, next{0};
  std::atomic<bool> closed{false};
};

// Whether task i is there, or will never be.
bool wait_for(const MadeWork& work, std::int64_t i) {
  constexpr int kSpins = 1 << 12;  // some ten microseconds: what making a task takes
  for (int spins = 0; work.ready.load(std::memory_order_acquire) <= i; ++spins) {
    if (work.closed.load(std::memory_order_acquire)) return work.ready.load(std::memory_order_acquire) > i;
    if (spins >= kSpins) std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return true;
}

// The maker makes all tasks first; then it takes some, as the others do all the time.
void make_or_follow(void* data) {
  auto& work = *static_cast<MadeWork*>(data);
  if (std::this_thread::get_id() == work.maker) {
    for (std::int64_t i = 0; i < work.tasks; ++i) {
      const bool more = (*work.make)(i);
      work.ready.store(i + 1, std::memory_order_release);
      if (!more) break;
    }
    work.closed.store(true, std::memory_order_release);
    (*work.made)();
  }
  for (std::int64_t i; (i = work.next.fetch_add(1, std::memory_order_relaxed)) < work.tasks && wait_for(work, i);)
    (*work.task)(i);
}

}  // namespace

void parallel_for(int threads, std::int64_t tasks, const std::function<void(std::int64_t)>& task) {
  Work work{&task, tasks};
  on_threads(static_cast<int>(std::min<std::int64_t>(threads, tasks)), drain, &work);
}

void parallel_as_made(int threads, std::int64_t tasks, const std::function<bool(std::int64_t)>& make,
                      const std::function<void()>& made, const std::function<void(std::int64_t)>& task) {
  MadeWork work{&make, &made, &task, tasks, std::this_thread::get_id()};
  on_threads(static_cast<int>(std::min<std::int64_t>(threads, tasks)), make_or_follow, &work);
}

}  // namespace codeshell::simd
