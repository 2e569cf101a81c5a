// Programs in sandboxes inside a sandbox, for a server that has loaded once what all programs need.
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <vector>

namespace codeshell::sandbox {

struct ProgramOptions {
  bool namespaces = true;  // levels 3 and 4
  double cpu_seconds = 0;
  uint64_t address_space = 0, processes = 0, file_bytes = 0, inodes = 0;
  std::vector<int> kept;  // descriptors, beside 0, 1 and 2
};

// Forks. In the child, which gets 0, the program's own pid, mount and IPC namespaces, a fresh /proc, /box, /tmp and
// /dev/shm, limits, no capabilities and the strict filter are in place, and it is in /box. What fails there ends the
// child with 126, and program_failure() names it. Throws Refused where the fork itself fails.
pid_t fork_program(const ProgramOptions& options);

// "step:errno:index" of the last child, or empty.
std::string program_failure();

// CPU seconds and resident bytes of all processes in the sandbox but the keeper and this one.
void program_usage(double* cpu_seconds, uint64_t* resident);

}  // namespace codeshell::sandbox
