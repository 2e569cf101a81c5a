// The scheduler of the host execution: launches, blocks, warps and what threads wait for.
//
// How a launch runs. run_grid takes the blocks in a random order. run_block makes a fiber for each thread. run_warps
// picks a warp and lets each of its lanes that can run continue until it waits or ends (sweep, resume); now and then it
// carries out a copy or product that is under way. A fiber that waits leaves its condition with the scheduler, which
// asks it again later.

#include "gpu/host/runtime.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "gpu/host/async.h"
#include "gpu/host/fiber.h"
#include "gpu/host/memory.h"
#include "gpu/host/names.h"
#include "gpu/launch.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace codeshell::gpu::host {

namespace {

constexpr int kBarriers = 16;
constexpr unsigned int kMaxThreads = 1024;
constexpr size_t kMaxDynamicShared = 227 * 1024;  // what a block of sm_90 may have

// One thread of the block.
struct Fiber {
  Context context = nullptr;
  uint3 index{};
  bool done = false;
  bool met = false;           // the meeting that it waits for is complete
  Condition ready = nullptr;  // null: can run
  const void* argument = nullptr;
  const char* what = "";  // what it waits for, and where, for the report of a deadlock
  Site site;
};

// A named barrier; 0 is __syncthreads. Waiters remember the generation, which counts completed phases.
struct Barrier {
  int arrived = 0;
  int waiting = 0;  // those of the arrived that wait, too
  int expected = 0;
  uint64_t generation = 0;
  int first_thread = 0;
  Site first_site;
};

// A meeting to which not all of its threads have come yet, with what each of those present offered.
struct OpenMeeting {
  Meeting key{};
  const char* what = "";
  int first_thread = 0;
  Site first_site;
  uint64_t arrived[2] = {0, 0};
  void* offers[128] = {};
};

// One launch at a time: guarded by the mutex of run_grid, so that kernels need no synchronisation of their own.
struct State {
  const void* kernel = nullptr;
  const std::function<void()>* thread = nullptr;
  Stacks stacks;
  std::vector<Fiber> fibers;
  Context scheduler = nullptr;
  int running = -1;  // the fiber that runs; -1: the scheduler
  std::string failure;
  Barrier barriers[kBarriers];
  std::vector<OpenMeeting> meetings;
  std::vector<std::function<void()>> pending;
  uint64_t random = 0;
  SharedMemory shared;
};

// A function's static, so that it exists whenever a launch needs it.
State& state() {
  static State instance;
  return instance;
}

// "forward_sm90.cu:123".
std::string describe(const Site& site) {
  const char* file = site.file_name();
  const char* slash = std::strrchr(file, '/');
  return std::string(slash ? slash + 1 : file) + ":" + std::to_string(site.line());
}

// "(x, y, z)" of a thread or block.
template <class Index>
std::string describe(const Index& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

// The start of each message: kernel, block and thread.
std::string where(int thread) {
  State& s = state();
  return "kernel " + kernel_name(s.kernel) + ", block " + describe(blockIdx) + ", thread " +
         describe(s.fibers[thread].index);
}

// Where each fiber starts: runs the kernel for its thread, then goes back to the scheduler for good. An exception may
// not leave the fiber's stack, so its words are kept for the scheduler.
void enter() {
  State& s = state();
  try {
    (*s.thread)();
  } catch (const std::exception& error) {
    if (s.failure.empty()) s.failure = where(s.running) + ": " + error.what();
  }
  s.fibers[s.running].done = true;
  Context unused;
  switch_context(&unused, s.scheduler);
}

// Runs a fiber until it waits, ends or fails. CUDA's threadIdx is a global that each switch sets.
void resume(int index) {
  State& s = state();
  Fiber& fiber = s.fibers[index];
  // From here on errors name this thread.
  s.running = index;
  threadIdx = fiber.index;
  fiber.ready = nullptr;
  switch_context(&s.scheduler, fiber.context);
  s.running = -1;
  // The fiber failed: the launch ends here, and the other fibers are dropped.
  if (!s.failure.empty()) throw std::runtime_error(s.failure);
}

// Runs each lane of the warp that can run once, in a random order; returns whether any did. An odd stride visits all
// lanes.
bool sweep(int warp) {
  State& s = state();
  const uint32_t start = random_below(kWarp), stride = random_below(kWarp) | 1;
  bool progress = false;
  for (uint32_t i = 0; i < kWarp; ++i) {
    const size_t index = static_cast<size_t>(warp) * kWarp + ((start + i * stride) & (kWarp - 1));
    if (index >= s.fibers.size()) continue;
    const Fiber& fiber = s.fibers[index];
    if (fiber.done || (fiber.ready && !fiber.ready(fiber.argument))) continue;
    resume(static_cast<int>(index));
    progress = true;
  }
  return progress;
}

// Whether some thread of the warp has not ended yet.
bool warp_alive(int warp) {
  State& s = state();
  const size_t first = static_cast<size_t>(warp) * kWarp;
  const size_t last = std::min(first + kWarp, s.fibers.size());
  for (size_t i = first; i < last; ++i) {
    if (!s.fibers[i].done) return true;
  }
  return false;
}

// Carries out one of the copies and products under way, whichever the seed picks. It is removed first, as it may add
// others.
void run_pending() {
  State& s = state();
  const size_t index = random_below(static_cast<uint32_t>(s.pending.size()));
  const std::function<void()> work = std::move(s.pending[index]);
  s.pending.erase(s.pending.begin() + static_cast<std::ptrdiff_t>(index));
  work();
}

// Nobody can run: says how many threads wait at each place.
[[noreturn]] void report_deadlock() {
  State& s = state();
  // Threads by what they wait for and where.
  std::map<std::string, int> waiting;
  int exited = 0, first = -1;
  for (size_t i = 0; i < s.fibers.size(); ++i) {
    const Fiber& fiber = s.fibers[i];
    if (fiber.done) {
      ++exited;
      continue;
    }
    if (first < 0) first = static_cast<int>(i);
    ++waiting[std::string(fiber.what) + " (" + describe(fiber.site) + ")"];
  }
  std::string message = where(first) + ": deadlock: ";
  for (const auto& [what, count] : waiting) {
    message += std::to_string(count) + (count == 1 ? " thread waits" : " threads wait") + " at " + what + ", ";
  }
  throw std::runtime_error(message + std::to_string(exited) + (exited == 1 ? " has exited" : " have exited"));
}

// How a block's warps are run, by the seed: fairly, each as far as it can or stopped at random after a step; or by
// rank, so that over some seeds each runs as far ahead of the others as it can and each lags as far as it can. Copies
// and products under way are carried out now and then, at once, or when nothing else can run.
struct Order {
  bool ranked;
  uint32_t patience;
};
constexpr Order kOrders[4] = {{false, 4}, {false, 1}, {true, 1u << 16}, {true, 2}};

// Runs the block's warps until all threads have ended, or none can continue.
void run_warps() {
  State& s = state();
  const Order order = kOrders[options().seed % 4];
  // The last warp may be a partial one.
  const int warps = static_cast<int>((s.fibers.size() + kWarp - 1) / kWarp);
  std::vector<int> ranks(static_cast<size_t>(warps));
  // A random rank for each warp.
  for (int i = 0; i < warps; ++i) ranks[i] = i;
  for (int i = warps; i > 1; --i) std::swap(ranks[i - 1], ranks[random_below(static_cast<uint32_t>(i))]);
  std::vector<int> candidates;
  // Each round starts with all warps that live.
  for (;;) {
    candidates.clear();
    // In the order of their ranks, so that the last candidate has the highest.
    for (const int warp : ranks) {
      if (warp_alive(warp)) candidates.push_back(warp);
    }
    if (candidates.empty()) return;
    bool progress = false;
    while (!candidates.empty()) {
      // A copy or product, with the probability 1 / patience.
      if (!s.pending.empty() && random_below(order.patience) == 0) {
        run_pending();
        progress = true;
      }
      // In ranked orders the last candidate, else any of them.
      const size_t pick = order.ranked ? candidates.size() - 1 : random_below(static_cast<uint32_t>(candidates.size()));
      const int warp = candidates[pick];
      // In ranked orders it runs until it is stalled; else it stops after a step in one of four cases.
      bool ran = false, stalled = false;
      do {
        stalled = !sweep(warp);
        ran |= !stalled;
      } while (!stalled && (order.ranked || random_below(4) != 0));
      progress |= ran;
      if (order.ranked && ran) break;  // what it did may have freed one of a higher rank
      // A stalled warp is out until the next round.
      if (stalled) {
        candidates[pick] = candidates.back();
        candidates.pop_back();
      }
    }
    // No warp could run in the whole round: only what is under way can free one.
    if (progress) continue;
    if (s.pending.empty()) report_deadlock();
    // Many are products that a wait has carried out since.
    for (size_t count = 1 + s.pending.size() / 8; count > 0; --count) run_pending();
  }
}

// One block: everything starts anew and poisoned, and afterwards nothing may be left open.
void run_block(const dim3& block) {
  State& s = state();
  const unsigned int threads = block.x * block.y * block.z;
  s.fibers.assign(threads, Fiber{});
  for (Barrier& barrier : s.barriers) barrier = Barrier{};
  s.meetings.clear();
  s.pending.clear();
  // Then the state of asynchronous copies and products.
  reset_async();
  s.shared.poison();
  for (unsigned int i = 0; i < threads; ++i) {
    // threadIdx of thread i, x fastest; its stack starts in enter().
    s.fibers[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    s.fibers[i].context = make_context(s.stacks.stack(i), Stacks::kBytes, &enter);
  }
  run_warps();
  // Checks at the end: named barriers with arrivals, copies and products in flight, writes past the memory.
  for (int i = 0; i < kBarriers; ++i) {
    const Barrier& barrier = s.barriers[i];
    if (barrier.arrived == 0) continue;
    throw std::runtime_error("kernel " + kernel_name(s.kernel) + ", block " + describe(blockIdx) + ": named barrier " +
                             std::to_string(i) + " is left with " + std::to_string(barrier.arrived) + " of " +
                             std::to_string(barrier.expected) + " arrivals (" + describe(barrier.first_site) + ")");
  }
  finish_async();
  while (!s.pending.empty()) run_pending();  // stores whose reads are done
  if (!s.shared.slack_untouched()) {
    throw std::runtime_error("kernel " + kernel_name(s.kernel) + ", block " + describe(blockIdx) +
                             ": a write beyond the dynamic shared memory of " + std::to_string(s.shared.bytes()) +
                             " bytes");
  }
}

}  // namespace

// The tests' settings; they set them between launches.
Options& options() {
  static Options instance;
  return instance;
}

bool refuses_launch() { return options().fail_launch > 0 && --options().fail_launch == 0; }

bool left_out(const char* what, Site site, int64_t object) {
  Options& o = options();
  if (!o.trace && o.left_out.empty()) return false;
  // The name of a place, as tests list and leave it out.
  const std::string place = std::string(what) + " " + describe(site) + " of " + std::to_string(object);
  if (o.trace && std::find(o.places.begin(), o.places.end(), place) == o.places.end()) o.places.push_back(place);
  return place == o.left_out;
}

uint32_t random_below(uint32_t bound) {  // splitmix64
  uint64_t z = state().random += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>(((z ^ (z >> 31)) >> 32) * bound >> 32);
}

// A launch: checks it as the driver would, then runs its blocks one after another.
void run_grid(const void* kernel, dim3 grid, dim3 block, size_t dynamic_shared, const std::function<void()>& thread) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  State& s = state();
  s.kernel = kernel;
  const auto refuse = [&](const std::string& what) {
    throw std::runtime_error("kernel " + kernel_name(kernel) + ": " + what);
  };
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  // Limits of the hardware, which the driver would report.
  if (threads == 0 || threads > kMaxThreads || block.z > 64)
    refuse("a block of " + describe(block) + " threads; 1 to 1024 are possible");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu)
    refuse("a grid of " + describe(grid) + " blocks");
  if (dynamic_shared > kMaxDynamicShared) refuse(std::to_string(dynamic_shared) + " bytes of dynamic shared memory");
  if (options().trace) options().launches.push_back({kernel_name(kernel), dynamic_shared});

  s.thread = &thread;
  s.failure.clear();
  s.running = -1;
  // The same seed gives the same order, launch for launch.
  s.random = options().seed * 0x2545f4914f6cdd1du;
  // Memory is kept from launch to launch, as long as it is large enough.
  s.stacks.reserve(threads);
  s.shared.resize(dynamic_shared);
  blockDim = block;
  gridDim = grid;

  // Blocks in a random order: none may rely on the order of their indices.
  std::vector<uint64_t> order(uint64_t{grid.x} * grid.y * grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_below(static_cast<uint32_t>(i))]);

  // Faults of the kernel's own code become errors; the addresses tell stack overflows and writes past shared memory
  // apart from wild pointers. A fault outside a fiber is not the kernel's.
  const FaultGuard guard([](const void* address) -> bool {
    State& s = state();
    if (s.running < 0) return false;
    if (s.failure.empty()) {
      std::string what = "access to an address that is nobody's";
      if (address && s.stacks.in_guard(address)) what = "stack overflow";
      if (address && s.shared.in_guard(address))
        what = "access beyond the dynamic shared memory of " + std::to_string(s.shared.bytes()) + " bytes";
      s.failure = where(s.running) + ": " + what;
    }
    return true;
  });
  for (const uint64_t index : order) {
    // x fastest.
    blockIdx = {static_cast<unsigned int>(index % grid.x), static_cast<unsigned int>(index / grid.x % grid.y),
                static_cast<unsigned int>(index / (uint64_t{grid.x} * grid.y))};
    guard.run([&] { run_block(block); },
              [&] {
                s.running = -1;
                throw std::runtime_error(s.failure);
              });
  }
}

void fail(const std::string& message, Site site) { fail_at(message, describe(site)); }

// From a fiber: keeps the message and switches to the scheduler, which throws. The fiber is never continued.
void fail_at(const std::string& message, const std::string& place) {
  State& s = state();
  if (s.running < 0) {  // an asynchronous copy or product
    throw std::runtime_error("kernel " + kernel_name(s.kernel) + ", block " + describe(blockIdx) + ": " + message +
                             " (" + place + ")");
  }
  s.failure = where(s.running) + ": " + message + " (" + place + ")";
  Context unused;
  switch_context(&unused, s.scheduler);
  __builtin_unreachable();
}

// The condition's argument lies on this fiber's stack, which stays as it is until the fiber continues.
void wait_until(Condition ready, const void* argument, const char* what, Site site) {
  State& s = state();
  Fiber& fiber = s.fibers[s.running];
  // The scheduler continues the fiber when ready(argument) holds.
  fiber.ready = ready;
  fiber.argument = argument;
  fiber.what = what;
  fiber.site = site;
  switch_context(&fiber.context, s.scheduler);
}

int linear_thread() { return state().running; }

void meet(const Meeting& meeting, const char* what, Perform perform, void* offer, Site site) {
  State& s = state();
  const int me = s.running;
  // The place in the meeting; its masks are two words of 64 bits.
  const int position = me - meeting.first;
  const auto bit = [](int i) { return uint64_t{1} << (i % 64); };
  Meeting key = meeting;
  // Lanes that the block does not have cannot come.
  const int present = std::min<int>(meeting.count, static_cast<int>(s.fibers.size()) - meeting.first);
  for (int i = present; i < meeting.count; ++i) key.mask[i / 64] &= ~bit(i);  // a partial last warp
  if (position < 0 || position >= meeting.count || !(key.mask[position / 64] & bit(position)))
    fail(std::string(what) + ": the mask does not contain the calling thread", site);

  // An open meeting of the same threads that still lacks this one; else a new one. Meetings of other threads, as of the
  // other half of a warp, may be open at the same time.
  OpenMeeting* open = nullptr;
  for (OpenMeeting& candidate : s.meetings) {
    if (candidate.key.first == key.first && candidate.key.count == key.count && candidate.key.mask[0] == key.mask[0] &&
        candidate.key.mask[1] == key.mask[1] && !(candidate.arrived[position / 64] & bit(position))) {
      open = &candidate;
      break;
    }
  }
  if (!open) {
    // The first to come opens it.
    open = &s.meetings.emplace_back();
    open->key = key;
    open->what = what;
    open->first_thread = me;
    open->first_site = site;
  } else if (std::strcmp(open->what, what) != 0) {
    fail(std::string("divergent: ") + what + " here, but thread " + describe(s.fibers[open->first_thread].index) +
             " is at " + open->what + " (" + describe(open->first_site) + ")",
         site);
  }
  // Here, with an offer.
  open->arrived[position / 64] |= bit(position);
  open->offers[position] = offer;
  s.fibers[me].met = false;
  // The last to arrive performs the instruction for all. The meeting is closed first, because others may begin.
  if (open->arrived[0] == key.mask[0] && open->arrived[1] == key.mask[1]) {
    const OpenMeeting complete = *open;
    s.meetings.erase(s.meetings.begin() + (open - s.meetings.data()));
    perform(complete.offers);
    // All who waited may continue.
    for (int i = 0; i < meeting.count; ++i) {
      if (complete.arrived[i / 64] & bit(i)) s.fibers[meeting.first + i].met = true;
    }
    return;
  }
  wait_until([](const void* argument) { return *static_cast<const bool*>(argument); }, &s.fibers[me].met, what, site);
}

namespace {

// Counts an arrival; `waits` says whether the thread will wait as well. Completes the phase if it is the last.
Barrier& arrive(int index, int threads, bool waits, const char* what, Site site) {
  State& s = state();
  if (index < 0 || index >= kBarriers) fail(std::string(what) + ": barrier " + std::to_string(index), site);
  const bool whole = threads < 0;
  const int expected = whole ? static_cast<int>(s.fibers.size()) : threads;
  // The hardware takes whole warps, at most all of the block's.
  if (!whole && (expected <= 0 || expected % kWarp || expected > (static_cast<int>(s.fibers.size()) + 31) / 32 * 32))
    fail(std::string(what) + ": " + std::to_string(threads) + " threads, not a multiple of 32 up to the block's", site);
  Barrier& barrier = s.barriers[index];
  // The first arrival of a phase says for how many threads it is; the others must agree. __syncthreads must be one and
  // the same for the whole block.
  if (barrier.arrived == 0) {
    barrier.expected = expected;
    barrier.first_thread = s.running;
    barrier.first_site = site;
  } else if (barrier.expected != expected) {
    fail(std::string(what) + ": barrier " + std::to_string(index) + " for " + std::to_string(expected) +
             " threads here, for " + std::to_string(barrier.expected) + " at " + describe(barrier.first_site),
         site);
  } else if (whole && (barrier.first_site.line() != site.line() ||
                       std::strcmp(barrier.first_site.file_name(), site.file_name()) != 0)) {
    fail("divergent __syncthreads: thread " + describe(s.fibers[barrier.first_thread].index) + " waits at " +
             describe(barrier.first_site),
         site);
  }
  barrier.waiting += waits;
  // The last arrival ends the phase. A phase that only had bar.arrive would let nobody through, which is a mistake.
  if (++barrier.arrived == barrier.expected) {
    if (barrier.waiting == 0) {
      fail(std::string(what) + ": barrier " + std::to_string(index) + " ends a phase for which nobody waited", site);
    }
    barrier.arrived = barrier.waiting = 0;
    ++barrier.generation;
  }
  return barrier;
}

}  // namespace

// Arrives and waits for the end of the phase.
void barrier_sync(int index, int threads, Site site) {
  const char* what = threads < 0 ? "__syncthreads" : "bar.sync";
  if (left_out(what, site, index)) return;
  State& s = state();
  // The generation before the arrival: this arrival may end the phase.
  const uint64_t generation = index >= 0 && index < kBarriers ? s.barriers[index].generation : 0;
  const Barrier& barrier = arrive(index, threads, true, what, site);
  wait_until([&] { return barrier.generation != generation; }, what, site);
}

// Arrives only.
void barrier_arrive(int index, int threads, Site site) {
  if (!left_out("bar.arrive", site, index)) arrive(index, threads, false, "bar.arrive", site);
}

void later(std::function<void()> work) { state().pending.push_back(std::move(work)); }

// The same memory for all threads and blocks of a launch.
void* dynamic_shared_memory(size_t alignment, Site site) {
  State& s = state();
  if (s.shared.bytes() == 0) fail("shared_memory: the launch gave no dynamic shared memory", site);
  check_aligned(s.shared.data(), alignment, "shared_memory", site);
  return s.shared.data();
}

size_t dynamic_shared_bytes() { return state().shared.bytes(); }

bool is_shared(const void* address) { return state().shared.contains(address); }
int64_t shared_offset(const void* address) { return state().shared.offset(address); }

}  // namespace codeshell::gpu::host

namespace codeshell::gpu {

// There is one device, and tests choose how many multiprocessors it seems to have, and how much shared memory.
int multiprocessors() { return host::options().multiprocessors; }
int shared_memory_per_block() { return host::options().shared_memory; }

OnDevice::OnDevice(int) {}
OnDevice::~OnDevice() = default;

}  // namespace codeshell::gpu
