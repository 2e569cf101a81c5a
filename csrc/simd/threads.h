// Threads beside the calling one.
#pragma once

#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace codeshell::simd {

// Starts `count` threads that call work(), or as many as the system lets it: whoever shares work out by a counter needs
// none of them. They are joined where the result ends.
template <class Work>
std::vector<std::jthread> start_threads(std::size_t count, const Work& work) {
  std::vector<std::jthread> threads;
  threads.reserve(count);
  try {
    while (threads.size() < count) threads.emplace_back(work);
  } catch (const std::system_error&) {
  }
  return threads;
}

}  // namespace codeshell::simd
