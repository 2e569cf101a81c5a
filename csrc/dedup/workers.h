// Threads that share a list of things to do, and a caller that may want to stop them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>

#include "simd/threads.h"

namespace codeshell::dedup {

// It is asked now and then, by the calling thread only; true means: give up. An empty one never stops.
using Stop = std::function<bool()>;

// Cuts [0, count) into ranges of `grain` and processes them on `threads` threads. Every thread calls make() once, for a
// function object with its own buffers, and then calls that with (begin, end) for every range that it takes. Returns
// false if `stop` ended the work early; rethrows the first exception of a thread. In both cases some ranges are done
// and others are not.
template <class Make>
bool share(size_t count, size_t grain, unsigned threads, const Stop& stop, const Make& make) {
  std::atomic<size_t> next{0};
  std::atomic<bool> stopped{false};
  std::exception_ptr error;
  std::mutex failing;
  // Only the caller's thread asks `stop`, because it is the one that may take Python's lock.
  const auto work = [&](bool caller) {
    try {
      auto task = make();
      for (size_t begin; !stopped && (begin = next.fetch_add(grain)) < count;) {
        task(begin, std::min(begin + grain, count));
        if (caller && stop && stop()) stopped = true;
      }
    } catch (...) {
      const std::lock_guard lock(failing);
      if (!error) error = std::current_exception();
      // The others find no more ranges.
      next = count;
    }
  };
  {
    // No more threads than ranges, and the caller's own thread works too.
    const size_t useful = std::min<size_t>(threads, (count + grain - 1) / grain);
    const auto others = simd::start_threads(std::max<size_t>(useful, 1) - 1, [&] { work(false); });
    work(true);
    // The caller may be out of work while others are not; these finish one range each. The end of the scope joins them.
  }
  if (error) std::rethrow_exception(error);
  return !stopped;
}

}  // namespace codeshell::dedup
