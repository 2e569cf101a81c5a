// Work shared between threads. Inside a torch process it runs on torch's own OpenMP threads: a second pool would fight
// torch's, whose threads spin for a while after every operation.
#pragma once

#include <cstdint>
#include <functional>

namespace codeshell::simd {

// Calls task(i) once for every i in [0, tasks), on up to `threads` threads, in no particular order. A task must write
// only what no other task touches, and sum in its own fixed order: then the result does not depend on `threads`.
// `task` must not throw.
void parallel_for(int threads, std::int64_t tasks, const std::function<void(std::int64_t)>& task);

// The same for tasks that this thread makes while the others work: it calls make(0), make(1) … in order, and task(i)
// runs on some thread after make(i) has returned. A task that is the last to be made is where make returns false.
// Then `made` is called, and this thread works too. None of the three must throw.
void parallel_as_made(int threads, std::int64_t tasks, const std::function<bool(std::int64_t)>& make,
                      const std::function<void()>& made, const std::function<void(std::int64_t)>& task);

}  // namespace codeshell::simd
