// What a program loses between fork and exec. Part of the keeper.
#pragma once

#include "sandbox/memory.h"
#include "sandbox/protocol.h"
#include "sandbox/root.h"

namespace codeshell::sandbox {

// Limits, capabilities, NO_NEW_PRIVS, Landlock where the level is that, and the filter, in this order. `rules` are
// descriptors of the binds (level 2), `folder` that of the working folder.
Failure confine(const Setup& setup, const Request& request, const char* instructions, const int* rules, int folder);

// Keeps the capabilities of the keeper's user namespace over exec, for the keeper itself.
void keep_capabilities(uint64_t mask);

}  // namespace codeshell::sandbox
