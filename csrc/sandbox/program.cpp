// The fork of a server inside a sandbox: the same steps as the keeper's, for a process that remains a copy of the
// server and is not replaced by exec.
#include "sandbox/program.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "sandbox/confine.h"
#include "sandbox/filter.h"
#include "sandbox/launch.h"
#include "sandbox/processes.h"
#include "sandbox/root.h"
#include "sandbox/syscalls.h"

namespace codeshell::sandbox {

namespace {

Failure* shared_failure() {
  static Failure* const failure = [] {
    void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? nullptr : static_cast<Failure*>(page);
  }();
  return failure;
}

// Where the C library keeps the number of this thread: its fork() renews it, the system call alone does not, and
// raise() and abort() would then signal a thread that does not exist.
pid_t* thread_number() {
  constexpr int kGetAddress = 40;  // PR_GET_TID_ADDRESS
  pid_t* address = nullptr;
  const pid_t self = static_cast<pid_t>(syscall(SYS_gettid));
  if (prctl(kGetAddress, &address, 0, 0, 0) == 0 && address && *address == self) return address;
  return nullptr;
}

}  // namespace

pid_t fork_program(const ProgramOptions& options) {
  Failure* const failure = shared_failure();
  if (!failure) throw Refused("fork", errno, 0);
  *failure = {};
  const std::vector<sock_filter> filter = make_filter(options.namespaces ? Filter::kStrict : Filter::kShared);
  std::vector<int> kept = options.kept;
  std::sort(kept.begin(), kept.end());
  Request request = {};
  request.cpu_us = static_cast<uint64_t>(std::llround(options.cpu_seconds * 1e6));
  request.address_space = options.address_space;
  request.file_bytes = options.file_bytes;
  // The keeper and the server count too: they have the same user.
  request.processes = options.processes ? options.processes + 2 : 0;
  request.instructions = static_cast<uint32_t>(filter.size());
  request.stack = 16 << 20;
  Setup setup = {};
  setup.level = options.namespaces ? kNamespaces : kLimits;

  long flags = SIGCHLD;
  if (options.namespaces) flags |= CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC;
  pid_t* const number = thread_number();
  if (number) flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
#if defined(__x86_64__)
  const long pid = sys::call(__NR_clone, flags, 0, 0, sys::of(number), 0);
#else
  const long pid = sys::call(__NR_clone, flags, 0, 0, 0, sys::of(number));
#endif
  if (pid < 0) throw Refused("fork", static_cast<int>(-pid), 0);
  if (pid > 0) return static_cast<pid_t>(pid);

  // The child. What is open and not kept is closed, from gap to gap.
  unsigned first = 3;
  for (const int fd : kept) {
    if (fd < 3) continue;
    if (static_cast<unsigned>(fd) > first) syscall(SYS_close_range, first, static_cast<unsigned>(fd) - 1, 0);
    first = static_cast<unsigned>(fd) + 1;
  }
  syscall(SYS_close_range, first, ~0u, 0);
  setsid();
  Failure found;
  if (options.namespaces) {
    found = make_proc("/proc");
    if (!found) found = make_work(options.file_bytes, options.inodes, "/box", "/dev/shm", "/tmp");
    if (!found && chdir("/box") != 0) found = {Step::kWorkFolder, errno, 0};
  }
  if (!found) found = confine(setup, request, reinterpret_cast<const char*>(filter.data()), nullptr, -1);
  if (found) {
    *failure = found;
    _exit(126);
  }
  // The page that the server reads is no longer this process's: a private one takes its place.
  mmap(failure, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return 0;
}

std::string program_failure() {
  const Failure* const failure = shared_failure();
  if (!failure || !*failure) return "";
  return Refused(step_name(failure->step), static_cast<int>(failure->error), failure->index).what();
}

void program_usage(double* cpu_seconds, uint64_t* resident) {
  const Usage usage = measure(true);
  *cpu_seconds = static_cast<double>(usage.ticks) / 100;
  *resident = usage.memory;
}

}  // namespace codeshell::sandbox
