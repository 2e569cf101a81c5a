// The host execution of a kernel: one block after another, the block's threads as fibers, warps run in a seeded random
// order between the points where threads wait for each other. What a GPU would answer with a fault, a hang or nonsense
// ends the launch with an error that names kernel, block and thread.
//
// Everything a thread can wait for is one of two things here. wait_until(): a condition that somebody else makes true
// (a barrier's phase, a semaphore). meet(): threads that must all come to the same instruction, which the last to
// arrive performs for all of them (shuffles, votes, wgmma).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

#include "gpu/host/vectors.h"

namespace codeshell::gpu::host {

using Site = std::source_location;

inline constexpr int kWarp = 32;

// A launch as noted.
struct Launch {
  std::string kernel;
  size_t dynamic_shared;
};

struct Options {
  uint64_t seed = 0;  // of the order in which warps, lanes, blocks and asynchronous copies run
  int multiprocessors = 4;
  int shared_memory = 227 * 1024;   // that a block may have
  bool checks = true;               // whether gpu::check ends a launch, as in builds without NDEBUG
  bool trace = false;               // whether launches add to `places` and `launches`
  std::vector<std::string> places;  // of waits, arrivals and commits, in the order in which they were first reached
  std::vector<Launch> launches;
  std::string left_out;  // the place whose calls do nothing: a defect, to see whether it shows
  int fail_launch = 0;   // the launch that the runtime will refuse: 1 is the next one, 0 none
};

Options& options();

// Calls thread() for every thread of the grid; throws std::runtime_error for what a GPU would answer with a fault or a
// hang. Launches from several Python threads wait for each other.
void run_grid(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& thread);

// Whether this launch is the one that is refused.
bool refuses_launch();

// Called by each wait, arrival and commit first: whether it is to do nothing. `object` tells what one line of code
// waits for apart: a barrier's index or place in shared memory.
bool left_out(const char* what, Site site, int64_t object = 0);

// Inside a kernel ----------------------------------------------------------------------------------------------------

// Ends the launch with this message; does not return and runs no destructors.
[[noreturn]] void fail(const std::string& message, Site site);
[[noreturn]] void fail_at(const std::string& message, const std::string& place);

using Condition = bool (*)(const void*);

// Suspends the thread until ready(argument) holds. `what` and the site are for the report of a deadlock.
void wait_until(Condition ready, const void* argument, const char* what, Site site);

template <class Ready>
void wait_until(const Ready& ready, const char* what, Site site) {
  if (ready()) return;
  wait_until([](const void* argument) { return (*static_cast<const Ready*>(argument))(); }, &ready, what, site);
}

// The threads first … first + 127 of the block whose bit is set come to instruction `what`; the last of them calls
// perform(context, offers), where offers[i] is what thread first + i offered. Warp: count 32; warpgroup: count 128.
struct Meeting {
  int first;
  int count;
  uint64_t mask[2];
};
using Perform = void (*)(void* const* offers);
void meet(const Meeting& meeting, const char* what, Perform perform, void* offer, Site site);

// The running thread's number in its block, x fastest.
int linear_thread();
inline int lane() { return linear_thread() % kWarp; }

// bar.sync and bar.arrive: `threads` of the block at barrier `index`; -1: all of the block, at the same site.
void barrier_sync(int index, int threads, Site site);
void barrier_arrive(int index, int threads, Site site);

// Runs work() at some later moment that the seed chooses, or when nothing else can run: an asynchronous copy's end.
void later(std::function<void()> work);

// The block's dynamic shared memory; fails where the launch gave none.
void* dynamic_shared_memory(size_t alignment, Site site = Site::current());
size_t dynamic_shared_bytes();

// Whether the address lies in the block's shared memory, static or dynamic.
bool is_shared(const void* address);
// How far from its start.
int64_t shared_offset(const void* address);

// A number from the seeded sequence, below `bound`.
uint32_t random_below(uint32_t bound);

// Fails unless the address is a multiple of `bytes`.
inline void check_aligned(const void* address, size_t bytes, const char* what, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  fail(std::string(what) + ": misaligned address, not a multiple of " + std::to_string(bytes), site);
}

}  // namespace codeshell::gpu::host

// CUDA's own names, set for the thread that runs.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
