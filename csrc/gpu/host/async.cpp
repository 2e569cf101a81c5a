// mbarriers, the election of a lane and registers moved between warpgroups, on the host.

#include "gpu/host/async.h"

#include <map>
#include <stdexcept>

namespace codeshell::gpu::host {

// The shared window: the dynamic memory as 32-bit addresses, for descriptors.

namespace {

constexpr uint32_t kWindow = 1024;  // where the dynamic memory starts; 0 is nobody's

}  // namespace

// Only tiles need addresses, and they lie in the dynamic memory: anything else is an error.
uint32_t shared_address(const void* pointer, Site site) {
  const auto* start = static_cast<const char*>(dynamic_shared_memory(1, site));
  const auto* byte = static_cast<const char*>(pointer);
  if (byte < start || byte >= start + dynamic_shared_bytes())
    fail("shared_address: not in dynamic shared memory, where tiles lie", site);
  return kWindow + static_cast<uint32_t>(byte - start);
}

// The reverse, for an access of so many bytes.
char* shared_pointer(uint32_t address, size_t bytes, const char* what, Site site) {
  char* start = static_cast<char*>(dynamic_shared_memory(1, site));
  if (address < kWindow || address + bytes > kWindow + dynamic_shared_bytes())
    fail(std::string(what) + ": beyond the dynamic shared memory of " + std::to_string(dynamic_shared_bytes()) +
             " bytes",
         site);
  return start + (address - kWindow);
}

// mbarriers ----------------------------------------------------------------------------------------------------------
//
// The word's own layout, as opaque as the hardware's: what a phase still waits for, and a mark that neither zeros nor
// the poison have.

namespace {

struct Phase {
  uint32_t parity;
  uint32_t expected;  // arrivals of each phase
  uint32_t pending;   // arrivals of this one
  int32_t bytes;      // expected and not yet there; negative where they came before they were expected
};

constexpr uint64_t kMark = 0b10;
constexpr uint32_t kMaxCount = (1u << 20) - 1;

// Bits: 62-63 the mark, 61 the parity, 41-60 the expected arrivals, 21-40 the pending ones, 0-20 the bytes with their
// sign.
uint64_t pack(const Phase& phase) {
  return kMark << 62 | static_cast<uint64_t>(phase.parity) << 61 | static_cast<uint64_t>(phase.expected) << 41 |
         static_cast<uint64_t>(phase.pending) << 21 | (static_cast<uint64_t>(phase.bytes) & 0x1fffffu);
}

// Fails where the word is not an initialised mbarrier: poison, zeros or other data have no mark.
Phase unpack(const uint64_t* word, Site site) {
  check_aligned(word, 8, "mbarrier", site);
  if (!is_shared(word)) fail("mbarrier: not in shared memory", site);
  if (*word >> 62 != kMark) fail("mbarrier: not initialised, or overwritten", site);
  // The shifts extend the sign of the 21 bits.
  const auto bytes = static_cast<int32_t>(static_cast<uint32_t>(*word & 0x1fffffu) << 11) >> 11;
  return {static_cast<uint32_t>(*word >> 61 & 1), static_cast<uint32_t>(*word >> 41 & kMaxCount),
          static_cast<uint32_t>(*word >> 21 & kMaxCount), bytes};
}

std::map<const uint64_t*, Site> initialised;  // the block's

// Ends the phase if nothing is missing: the parity flips, and the next phase waits for as many arrivals.
void update(uint64_t* word, Phase phase) {
  if (phase.pending == 0 && phase.bytes == 0) {
    phase.parity ^= 1;
    phase.pending = phase.expected;
  }
  *word = pack(phase);
}

}  // namespace

void mbarrier_init(uint64_t* word, uint32_t arrivals, Site site) {
  check_aligned(word, 8, "mbarrier", site);
  if (!is_shared(word)) fail("mbarrier: not in shared memory", site);
  if (arrivals < 1 || arrivals > kMaxCount) fail("mbarrier: a count of " + std::to_string(arrivals), site);
  // Parity 0, no arrival yet, no bytes.
  *word = pack({0, arrivals, arrivals, 0});
  initialised.insert_or_assign(word, site);
}

// expected_bytes is 0 for a plain arrival.
void mbarrier_arrive(uint64_t* word, uint32_t expected_bytes, Site site) {
  if (left_out("mbarrier arrive", site, shared_offset(word))) return;
  Phase phase = unpack(word, site);
  if (phase.pending == 0) fail("mbarrier: more arrivals in a phase than the count given to init", site);
  if (expected_bytes + static_cast<int64_t>(phase.bytes) > static_cast<int64_t>(kMaxCount))
    fail("mbarrier: more than 2^20 - 1 bytes expected in a phase", site);
  phase.bytes += static_cast<int32_t>(expected_bytes);
  --phase.pending;
  update(word, phase);
}

// The end of an asynchronous copy. Bytes may come before they are expected, but not after the last arrival.
void mbarrier_complete(uint64_t* word, uint32_t bytes, Site site) {
  Phase phase = unpack(word, site);
  phase.bytes -= static_cast<int32_t>(bytes);
  if (phase.pending == 0 && phase.bytes < 0) fail("mbarrier: more bytes copied in a phase than expected", site);
  update(word, phase);
}

// The phase of this parity has ended if the current one has the other parity.
bool mbarrier_try_wait(const uint64_t* word, uint32_t parity, Site site) {
  if (parity > 1) fail("mbarrier: a parity of " + std::to_string(parity), site);
  return unpack(word, site).parity != parity;
}

void mbarrier_wait(const uint64_t* word, uint32_t parity, Site site) {
  if (left_out("mbarrier wait", site, shared_offset(word))) return;
  wait_until([&] { return mbarrier_try_wait(word, parity, site); }, "mbarrier wait", site);
}

// Warps and warpgroups.

bool elect_one(Site site) {
  // Which lane is the implementation's choice, but always the same one.
  bool elected = lane() == static_cast<int>(options().seed % kWarp);
  meet({linear_thread() / kWarp * kWarp, kWarp, {0xffffffffu, 0}}, "elect.sync", [](void* const*) {}, &elected, site);
  return elected;
}

namespace {

std::map<int, int> registers_of;  // a thread of each warpgroup that set them

}  // namespace

// Checked, not modelled: the host has no such registers. Once all warpgroups have set theirs, they must fit the
// multiprocessor.
void set_registers(int registers, bool raise, Site site) {
  const char* what = raise ? "setmaxnreg.inc" : "setmaxnreg.dec";
  if (registers % 8 || registers < 24 || registers > 256)
    fail(std::string(what) + ": " + std::to_string(registers) + " registers; a multiple of 8 from 24 to 256", site);
  const int first = linear_thread() / 128 * 128;
  meet({first, 128, {~uint64_t{0}, ~uint64_t{0}}}, what, [](void* const*) {}, nullptr, site);
  // One thread counts for the warpgroup.
  if (linear_thread() != first) return;
  registers_of[first] = registers;
  const auto threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  // When every warpgroup has set its registers: do they fit together?
  int total = 0;
  for (const auto& [warpgroup, count] : registers_of) total += count * 128;
  if (static_cast<int>(registers_of.size()) * 128 == threads && total > 64 * 1024)
    fail("setmaxnreg: " + std::to_string(total) + " registers for the block; a multiprocessor has 65536", site);
}

// In tma.cpp and wgmma.cpp.
void reset_copies();
void reset_products();
std::string unfinished_copies();
std::string unfinished_products();

void reset_async() {
  initialised.clear();
  registers_of.clear();
  reset_copies();
  reset_products();
}

void finish_async() {
  for (const std::string& what : {unfinished_copies(), unfinished_products()}) {
    if (!what.empty()) fail_at(what, "at the block's end");
  }
  // Every mbarrier must be between two phases: nobody arrived, and no bytes are due.
  for (const auto& [word, site] : initialised) {
    const Phase phase = unpack(word, site);
    if (phase.pending == phase.expected && phase.bytes == 0) continue;
    fail("mbarrier: a phase that did not end: " + std::to_string(phase.expected - phase.pending) + " of " +
             std::to_string(phase.expected) + " arrivals, " + std::to_string(phase.bytes) + " bytes to come",
         site);
  }
}

}  // namespace codeshell::gpu::host
