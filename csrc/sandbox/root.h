// The private root of a sandbox: what is mounted where. Part of the keeper.
#pragma once

#include "sandbox/memory.h"
#include "sandbox/protocol.h"

namespace codeshell::sandbox {

struct Failure {
  Step step = Step::kNone;
  long error = 0;  // positive
  uint32_t index = 0;
  explicit operator bool() const { return step != Step::kNone; }
};

// Opens every bind of the setup while the keeper is still who started it: a folder that nobody may not enter can be
// bound. `opened` gets the descriptors, -1 for what is no bind or absent.
Failure open_binds(const Setup& setup, const char* const* hosts, int* opened);

// Builds the root and enters it; the folder is then /box.
Failure make_root(const Setup& setup, const char* const* hosts, const char* const* insides, const int* opened);

// Mounts what a program may write: one tmpfs, seen as /box, /tmp and /dev/shm. `names` are these three, from the
// working folder or from the root.
Failure make_work(uint64_t bytes, uint64_t inodes, const char* box, const char* shm, const char* tmp);

// Mounts the /proc of the calling process's pid namespace.
Failure make_proc(const char* path);

}  // namespace codeshell::sandbox
