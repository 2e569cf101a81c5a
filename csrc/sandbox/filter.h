// The seccomp filter: which system calls a program in the sandbox may not make.
#pragma once

#include <linux/filter.h>

#include <vector>

namespace codeshell::sandbox {

enum class Filter {
  kStrict,  // of a program that is not trusted, in namespaces of its own
  kShared,  // the same at levels 1 and 2, where the host's processes, sockets and IPC are in reach
  kNested,  // of our own server inside a sandbox, which makes namespaces for programs
};

// The instructions, for prctl(PR_SET_SECCOMP). `scoped` is whether Landlock keeps signals inside (ABI 6); `self` is the
// pid that may be signalled where it does not. Both matter to kShared alone.
std::vector<sock_filter> make_filter(Filter kind, bool scoped = true);

}  // namespace codeshell::sandbox
