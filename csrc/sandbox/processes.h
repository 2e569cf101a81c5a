// The processes below the keeper: what they use, and their end. Part of the keeper.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace codeshell::sandbox {

struct Usage {
  uint64_t ticks = 0;   // CPU time in hundredths of a second, with children that were waited for
  uint64_t memory = 0;  // bytes of resident pages; pages that several processes share count for each
  uint32_t processes = 0;
};

// What lives below the keeper: in its own pid namespace that is everything, else it follows the parents.
Usage measure(bool namespaced);

// The memory of the same processes with shared pages counted once: dear, for a second look.
uint64_t measure_exactly(bool namespaced);

// Kills all of them and waits until none is left. Returns how many were there; `left` counts what could not be killed.
uint32_t kill_all(bool namespaced, uint32_t* left);

}  // namespace codeshell::sandbox
