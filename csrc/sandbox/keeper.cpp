// The keeper: the first process of a sandbox. It builds the root, starts programs one after the other, holds their
// limits, drains what they print, and leaves nothing of them.
//
// It is a program without a C library, of some ten pages, that the launcher starts from a memory file: its start and its
// forks cost a tenth of a millisecond, whatever the process that uses the sandbox weighs, and its memory holds nothing
// of that process. At levels 3 and 4 it is pid 1 of its namespaces, so that its end is the end of everything inside, and
// no signal from inside reaches it. At levels 1 and 2 it is the subreaper of what it starts.
//
// It ends when the launcher closes the socket, or dies.
#include <fcntl.h>
#include <linux/prctl.h>

#include "sandbox/confine.h"
#include "sandbox/memory.h"
#include "sandbox/processes.h"
#include "sandbox/protocol.h"
#include "sandbox/root.h"
#include "sandbox/syscalls.h"

// GCC makes calls of these from plain loops and structs.
extern "C" {
void* memset(void* target, int value, size_t size) {
  auto* bytes = static_cast<volatile unsigned char*>(target);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(value);
  return target;
}
void* memcpy(void* target, const void* source, size_t size) {
  auto* bytes = static_cast<volatile unsigned char*>(target);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<const unsigned char*>(source)[i];
  return target;
}
}

namespace codeshell::sandbox {

namespace {

using sys::of;

constexpr long kKill = 9, kChild = 17;
constexpr short kIn = 1, kHangUp = 16, kError = 8;

struct Poll {
  int32_t fd;
  int16_t events, revents;
};
struct Time {
  int64_t seconds, nanoseconds;
};
struct Times {  // struct rusage
  int64_t user_s, user_us, system_s, system_us, peak_kilobytes, rest[13];
};

// Of the running keeper.
Setup g_setup;
const char* g_hosts[kMostBinds];
const char* g_insides[kMostBinds];
int g_binds[kMostBinds];
Report* g_report;
char* g_rings[2];
int g_folder = -1;
int g_signals = -1;
Failure* g_failure;  // shared with a child until it becomes the program
const char* g_strings[kMostStrings + 3];
char g_buffer[65536];

bool namespaced() { return g_setup.level >= kNamespaces; }

uint64_t now_us() {
  Time time = {};
  sys::call(__NR_clock_gettime, 1, of(&time));
  return static_cast<uint64_t>(time.seconds) * 1000000 + static_cast<uint64_t>(time.nanoseconds) / 1000;
}

uint64_t cpu_us(long who, uint64_t* peak = nullptr) {
  Times times = {};
  sys::call(__NR_getrusage, who, of(&times));
  if (peak) *peak = static_cast<uint64_t>(times.peak_kilobytes) * 1024;
  return static_cast<uint64_t>(times.user_s + times.system_s) * 1000000 +
         static_cast<uint64_t>(times.user_us + times.system_us);
}

// A message with its descriptors. The structs are the kernel's.
struct Header {
  void* name;
  uint32_t name_size;
  const void* parts;
  size_t part_count;
  void* control;
  size_t control_size;
  int32_t flags;
};
struct Part {
  void* data;
  size_t size;
};
struct Control {
  size_t size;
  int32_t level, type;
  int32_t fds[kMostFds + 4];
};

void tell(Tell kind, const Failure& failure = {}) {
  const Message message = {static_cast<uint32_t>(kind), failure.step, static_cast<int32_t>(failure.error),
                           failure.index, Cause::kEnded};
  sys::write(kControlFd, &message, sizeof message);
}

// Waits for a message; false at the end of the socket. Returns the number of descriptors in `fds`.
bool hear(Message* message, int* fds, uint32_t* count) {
  Part part = {message, sizeof *message};
  Control control = {};
  Header header = {nullptr, 0, &part, 1, &control, sizeof control, 0};
  const long size = sys::call(__NR_recvmsg, kControlFd, of(&header), 0x40000000);  // MSG_CMSG_CLOEXEC
  if (size != static_cast<long>(sizeof *message)) return false;
  *count = 0;
  if (header.control_size >= 16 && control.level == 1 && control.type == 1) {
    *count = static_cast<uint32_t>((control.size - 16) / 4);
    for (uint32_t i = 0; i < *count; ++i) fds[i] = control.fds[i];
  }
  return true;
}

// Maps a memory file to read. It stays mapped: a sandbox sees few of them.
bool map(int fd, Cursor* cursor) {
  const long size = sys::call(__NR_lseek, fd, 0, 2);
  if (size <= 0) return false;
  const long data = sys::call(__NR_mmap, 0, size, 1, 2, fd, 0);
  if (data < 0 && data > -4096) return false;
  cursor->at = reinterpret_cast<const char*>(data);
  cursor->end = cursor->at + size;
  return true;
}

Failure write_files(int fd) {
  Cursor cursor;
  if (!map(fd, &cursor)) return {Step::kFiles, 22, 0};
  const char* start = cursor.at;
  const long whole = cursor.end - cursor.at;
  const auto* head = reinterpret_cast<const Files*>(cursor.take(sizeof(Files)));
  for (uint32_t i = 0; head && i < head->count; ++i) {
    const char* name = cursor.string();
    uint64_t size = 0;
    if (const char* number = cursor.take(sizeof size)) memcpy(&size, number, sizeof size);
    const char* data = cursor.take(size);
    if (!cursor.good) return {Step::kFiles, 22, i};
    // Folders on the way, then the file: no step follows a symbolic link, which an earlier program may have left.
    Line<4096> part;
    struct {
      uint64_t flags, mode, resolve;
    } how = {O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0755, 0x04 | 0x08};
    for (const char* at = name; *at; ++at) {
      if (*at == '/') sys::call(__NR_mkdirat, g_folder, of(part.text), 0755);
      const char one[2] = {*at, 0};
      part.add(one);
    }
    const long file = sys::call(__NR_openat2, g_folder, of(name), of(&how), sizeof how);
    if (file < 0) return {Step::kFiles, -file, i};
    uint64_t done = 0;
    while (done < size) {
      const long written = sys::write(file, data + done, size - done);
      if (written <= 0) {
        sys::close(file);
        return {Step::kFiles, written ? -written : 28, i};
      }
      done += static_cast<uint64_t>(written);
    }
    sys::close(file);
  }
  sys::call(__NR_munmap, of(start), whole);
  return {};
}

[[noreturn]] void fail(const Failure& failure) {
  *g_failure = failure;
  sys::exit(127);
}

// The child: its descriptors, its folder, what it loses, and the program.
[[noreturn]] void become(const Request& request, const char* const* arguments, const char* const* environment,
                         const char* const* paths, const char* instructions, const char* folder, int* fds) {
  sys::call(__NR_setsid);
  const uint64_t none = 0;
  sys::call(__NR_rt_sigprocmask, 2, of(&none), 0, 8);
  // To numbers above all targets first, so that no target covers a descriptor that is still needed.
  constexpr long kAbove = 512;
  for (uint32_t i = 0; i < request.fds; ++i) {
    const long moved = sys::call(__NR_fcntl, fds[i], F_DUPFD_CLOEXEC, kAbove);
    if (moved < 0) fail({Step::kExec, -moved, i});
    fds[i] = static_cast<int>(moved);
  }
  const long entered = sys::call(__NR_chdir, of(folder));
  if (entered < 0) fail({Step::kExec, -entered, 0});
  if (const Failure failure = confine(g_setup, request, instructions, g_binds, g_folder)) fail(failure);
  // Only now: a target may have the number of a descriptor that Landlock's rules needed.
  for (uint32_t i = 0; i < request.fds; ++i) {
    const long placed = sys::call(__NR_dup3, fds[i], request.targets[i], 0);
    if (placed < 0) fail({Step::kExec, -placed, i});
  }
  // Nothing of the keeper stays open. (close_range is newer than some kernels with Landlock would need; this is not.)
  for (long fd = 3; fd < kAbove; ++fd) {
    bool wanted = false;
    for (uint32_t i = 0; i < request.fds; ++i) wanted |= request.targets[i] == fd;
    if (wanted) continue;
    // From here to the next wanted one.
    long last = kAbove - 1;
    for (uint32_t i = 0; i < request.fds; ++i) {
      if (request.targets[i] > fd && request.targets[i] <= last) last = request.targets[i] - 1;
    }
    sys::call(__NR_close_range, fd, last, 0);
    fd = last;
  }
  sys::call(__NR_close_range, kAbove, ~0u, 4);  // CLOSE_RANGE_CLOEXEC
  long result = -2;
  bool slash = false;
  for (const char* at = arguments[0]; *at; ++at) slash |= *at == '/';
  if (slash) {
    result = sys::call(__NR_execve, of(arguments[0]), of(arguments), of(environment));
  } else {
    for (; *paths; ++paths) {
      Line<4096> path;
      path.add(*paths).add("/").add(arguments[0]);
      const long tried = sys::call(__NR_execve, of(path.text), of(arguments), of(environment));
      if (result == -2 || tried != -2) result = tried;
    }
  }
  fail({Step::kExec, -result, 0});
}

// Takes what a stream holds into its ring, but no more than a few buffers: a program that writes as fast as this reads
// must not keep the keeper from its limits. False at the stream's end.
bool drain(int fd, int stream) {
  for (int turn = 0; turn < 8; ++turn) {
    const long count = sys::read(fd, g_buffer, sizeof g_buffer);
    if (count == -11 || count == -4) return true;
    if (count <= 0) return false;
    uint64_t total = g_report->streams[stream].total;
    const uint64_t kept = g_setup.kept;
    const uint64_t skip = static_cast<uint64_t>(count) > kept ? static_cast<uint64_t>(count) - kept : 0;
    for (uint64_t i = skip; i < static_cast<uint64_t>(count);) {
      const uint64_t at = (total + i) % kept;
      uint64_t piece = static_cast<uint64_t>(count) - i;
      if (piece > kept - at) piece = kept - at;
      __builtin_memcpy(g_rings[stream] + at, g_buffer + i, piece);
      i += piece;
    }
    g_report->streams[stream].total = total + static_cast<uint64_t>(count);
    if (count < static_cast<long>(sizeof g_buffer)) return true;
  }
  return true;
}

struct Running {
  const Request* request;
  long pid = 0;
  bool alive = true;
  int wait_status = 0;
  uint64_t started = 0, cpu_before = 0, keeper_before = 0, next_look = 0, deadline = 0;
  uint64_t memory = 0;
  Cause cause = Cause::kEnded;
};

void stop(Running* running, Cause cause) {
  if (running->cause == Cause::kEnded) running->cause = cause;
  sys::call(__NR_kill, namespaced() ? -1 : running->pid, kKill);
}

// Takes the status of everything that ended.
void reap(Running* running) {
  for (;;) {
    int status = 0;
    const long pid = sys::call(__NR_wait4, -1, of(&status), 1, 0);
    if (pid <= 0) return;
    if (pid == running->pid) {
      running->alive = false;
      running->wait_status = status;
    }
  }
}

// Compares what the program used with its limits. The next look is when it could reach them at the earliest.
void look(Running* running) {
  const Request& request = *running->request;
  const uint64_t now = now_us();
  uint64_t next = now + 500000;
  if (request.cpu_us || request.memory) {
    const Usage usage = measure(namespaced());
    const uint64_t used = usage.ticks * 10000 + cpu_us(-1) - running->cpu_before;
    if (usage.memory > running->memory) running->memory = usage.memory;
    if (request.cpu_us && used > request.cpu_us) return stop(running, Cause::kCpuTime);
    if (request.memory && usage.memory > request.memory && measure_exactly(namespaced()) > request.memory) {
      return stop(running, Cause::kMemory);
    }
    if (request.cpu_us) {
      const uint64_t earliest = now + (request.cpu_us - used) / (request.processors ? request.processors : 1) + 10000;
      if (earliest < next) next = earliest;
    }
    if (request.memory && next > now + 50000) next = now + 50000;
  }
  running->next_look = next;
}

void finish(Running* running, int* out) {
  uint32_t left = 0;
  const uint32_t killed = kill_all(namespaced(), &left);
  for (int stream = 0; stream < 2; ++stream) {
    if (out[stream] < 0) continue;
    while (drain(out[stream], stream)) {
      Poll more = {out[stream], kIn, 0};
      const Time soon = {};
      if (sys::call(__NR_ppoll, of(&more), 1, of(&soon), 0, 8) <= 0) break;
    }
    sys::close(out[stream]);
  }
  uint64_t peak = 0;
  const uint64_t used = cpu_us(-1, &peak) - running->cpu_before;
  Report& report = *g_report;
  report.wait_status = running->wait_status;
  report.cpu_us = used;
  report.keeper_us = cpu_us(0);
  report.wall_us = now_us() - running->started;
  report.peak_memory = peak > running->memory ? peak : running->memory;
  report.killed = killed;
  report.left = left;
  // The time that was used decides, whoever noticed first: so the verdict does not depend on when the keeper looked.
  if (running->request->cpu_us && used > running->request->cpu_us) running->cause = Cause::kCpuTime;
  report.cause = running->cause;
}

// Starts a program and stays with it to its end. False if the launcher went away.
bool run(int* fds, uint32_t count) {
  Cursor cursor;
  if (!count || !map(fds[0], &cursor)) {
    tell(Tell::kFailed, {Step::kFork, 22, 0});
    return true;
  }
  const char* start = cursor.at;
  const long whole = cursor.end - cursor.at;
  const auto* request = reinterpret_cast<const Request*>(cursor.take(sizeof(Request)));
  const char* folder = cursor.string();
  const char** strings = g_strings;
  const char** lists[3] = {};
  const uint32_t counts[3] = {request ? request->arguments : 0, request ? request->environment : 0,
                              request ? request->paths : 0};
  const bool fits = request && uint64_t{counts[0]} + counts[1] + counts[2] <= kMostStrings;
  for (int list = 0; fits && list < 3; ++list) {
    lists[list] = strings;
    for (uint32_t i = 0; i < counts[list]; ++i) *strings++ = cursor.string();
    *strings++ = nullptr;
  }
  const char* instructions = fits ? cursor.take(uint64_t{request->instructions} * 8) : nullptr;
  if (!fits || !cursor.good || request->fds + 1 != count || !counts[0]) {
    tell(Tell::kFailed, {Step::kFork, 22, 0});
    return true;
  }

  // The launcher's descriptors, then the two pipes that the keeper drains.
  Request here = *request;
  int given[kMostFds + 2];
  for (uint32_t i = 0; i < here.fds; ++i) given[i] = fds[i + 1];
  int out[2] = {-1, -1}, ends[2] = {-1, -1};
  if (here.kept_output) {
    for (int stream = 0; stream < 2; ++stream) {
      int both[2] = {-1, -1};
      const long made = sys::call(__NR_pipe2, of(both), O_CLOEXEC);
      if (made < 0) tell(Tell::kFailed, {Step::kFork, -made, 0});
      out[stream] = both[0];
      ends[stream] = both[1];
      sys::call(__NR_fcntl, both[0], F_SETFL, O_NONBLOCK);
      here.targets[here.fds] = stream + 1;
      given[here.fds++] = both[1];
    }
  }
  g_report->streams[0].total = g_report->streams[1].total = 0;
  *g_failure = {};

  Running running;
  running.request = &here;
  running.cpu_before = cpu_us(-1);
  running.started = now_us();
  running.deadline = here.wall_us ? running.started + here.wall_us : ~0ull;
  const uint64_t earliest = here.cpu_us / (here.processors ? here.processors : 1);
  running.next_look = running.started + (here.memory ? 20000 : here.cpu_us ? earliest : 500000);
  running.pid = sys::call(__NR_clone, kChild, 0, 0, 0, 0);
  if (running.pid == 0) become(here, lists[0], lists[1], lists[2], instructions, folder, given);
  for (uint32_t i = 0; i < count; ++i) sys::close(fds[i]);
  for (const int end : ends) {
    if (end >= 0) sys::close(end);
  }
  if (running.pid < 0) {
    for (const int end : out) {
      if (end >= 0) sys::close(end);
    }
    tell(Tell::kFailed, {Step::kFork, -running.pid, 0});
    sys::call(__NR_munmap, of(start), whole);
    return true;
  }
  g_report->pid = static_cast<int32_t>(running.pid);

  bool there = true;
  while (running.alive) {
    const uint64_t now = now_us();
    if (now >= running.deadline) stop(&running, Cause::kWallTime);
    uint64_t until = running.next_look < running.deadline ? running.next_look : running.deadline;
    if (running.cause != Cause::kEnded) until = now + 100000;
    const uint64_t wait = until > now ? until - now : 0;
    const Time timeout = {static_cast<int64_t>(wait / 1000000), static_cast<int64_t>(wait % 1000000) * 1000};
    Poll polls[4] = {{kControlFd, static_cast<int16_t>(there ? kIn : 0), 0},
                     {g_signals, kIn, 0},
                     {out[0], kIn, 0},
                     {out[1], kIn, 0}};
    if (!there) polls[0].fd = -1;
    sys::call(__NR_ppoll, of(polls), 4, of(&timeout), 0, 8);
    for (int stream = 0; stream < 2; ++stream) {
      if (!polls[2 + stream].revents || out[stream] < 0) continue;
      if (!drain(out[stream], stream)) {
        sys::close(out[stream]);
        out[stream] = -1;
      }
    }
    if (here.drained && g_report->streams[0].total + g_report->streams[1].total > here.drained) {
      stop(&running, Cause::kOutput);
    }
    if (polls[0].revents) {
      Message message;
      int more[kMostFds + 4];
      uint32_t more_count = 0;
      if (!hear(&message, more, &more_count)) {
        there = false;
        stop(&running, Cause::kKilled);
      } else if (message.kind == static_cast<uint32_t>(Ask::kKill)) {
        stop(&running, message.cause);
      }
      for (uint32_t i = 0; i < more_count; ++i) sys::close(more[i]);
    }
    if (polls[1].revents) {
      char notes[1024];
      sys::read(g_signals, notes, sizeof notes);
    }
    reap(&running);
    if (running.alive && now_us() >= running.next_look && running.cause == Cause::kEnded) look(&running);
  }
  finish(&running, out);
  if (*g_failure) {
    tell(Tell::kFailed, *g_failure);
  } else {
    tell(Tell::kEnded);
  }
  sys::call(__NR_munmap, of(start), whole);
  return there;
}

Failure prepare() {
  Cursor cursor;
  if (!map(kSetupFd, &cursor)) return {Step::kStart, 22, 0};
  const char* head = cursor.take(sizeof(Setup));
  if (!head) return {Step::kStart, 22, 0};
  __builtin_memcpy(&g_setup, head, sizeof g_setup);
  if (g_setup.binds > kMostBinds || !g_setup.kept) return {Step::kStart, 7, 0};
  const char* name = cursor.string();
  const char* work = cursor.string();
  for (uint32_t i = 0; i < g_setup.binds; ++i) {
    g_hosts[i] = cursor.string();
    g_insides[i] = cursor.string();
  }
  if (!cursor.good) return {Step::kStart, 22, 0};
  const long report = sys::call(__NR_mmap, 0, static_cast<long>(sizeof(Report) + 2 * g_setup.kept), 3, 1, kReportFd, 0);
  if (report < 0 && report > -4096) return {Step::kStart, -report, 0};
  g_report = reinterpret_cast<Report*>(report);
  g_rings[0] = reinterpret_cast<char*>(report) + sizeof(Report);
  g_rings[1] = g_rings[0] + g_setup.kept;

  // Signals as they are at a start; the end of a child comes by a descriptor.
  for (long signal = 1; signal <= 64; ++signal) {
    const uint64_t action[4] = {};
    if (signal != kKill && signal != 19) sys::call(__NR_rt_sigaction, signal, of(action), 0, 8);
  }
  const uint64_t mask = ~0ull, child = 1ull << (kChild - 1);
  sys::call(__NR_rt_sigprocmask, 2, of(&mask), 0, 8);
  g_signals = static_cast<int>(sys::call(__NR_signalfd4, -1, of(&child), 8, O_CLOEXEC | O_NONBLOCK));
  if (g_signals < 0) return {Step::kStart, -g_signals, 0};
  sys::call(__NR_umask, 022);

  if (const Failure failure = open_binds(g_setup, g_hosts, g_binds)) return failure;
  if (namespaced()) {
    const long uid = g_setup.uid, gid = g_setup.gid;
    if (g_setup.change) {
      const long result = sys::call(__NR_setgroups, 0, 0);
      if (result < 0) return {Step::kIdentity, -result, 0};
    }
    long result = sys::call(__NR_setresgid, gid, gid, gid);
    if (result >= 0) result = sys::call(__NR_setresuid, uid, uid, uid);
    if (result < 0) return {Step::kIdentity, -result, 0};
    if (const Failure failure = make_root(g_setup, g_hosts, g_insides, g_binds)) return failure;
    sys::call(__NR_sethostname, of(name), static_cast<long>(length_of(name)));
    work = "/box";
  } else {
    // Orphans of what runs come to the keeper. Files that it writes for the program belong to the program.
    const long result = sys::call(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    if (result < 0) return {Step::kStart, -result, 0};
    if (g_setup.change) {
      sys::call(__NR_setfsgid, static_cast<long>(g_setup.gid));
      sys::call(__NR_setfsuid, static_cast<long>(g_setup.uid));
    }
  }
  const long opened = sys::openat(AT_FDCWD, work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (opened < 0) return {Step::kWorkFolder, -opened, 0};
  g_folder = static_cast<int>(opened);

  const long shared = sys::call(__NR_mmap, 0, 4096, 3, 0x21, -1, 0);  // MAP_SHARED | MAP_ANONYMOUS
  if (shared < 0 && shared > -4096) return {Step::kStart, -shared, 0};
  g_failure = reinterpret_cast<Failure*>(shared);
  // Not readable from inside, then: end with the launcher. Set last, since a change of identity would clear it. At levels
  // 1 and 2 the end of the socket does it alone, so that the keeper can still end what it started.
  sys::call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
  if (namespaced()) sys::call(__NR_prctl, PR_SET_PDEATHSIG, kKill, 0, 0, 0);
  return {};
}

[[noreturn]] void main() {
  if (const Failure failure = prepare()) {
    tell(Tell::kFailed, failure);
    sys::exit(1);
  }
  tell(Tell::kReady);
  for (;;) {
    Message message = {};
    int fds[kMostFds + 4];
    uint32_t count = 0;
    if (!hear(&message, fds, &count)) break;
    if (message.kind == static_cast<uint32_t>(Ask::kRun)) {
      if (!run(fds, count)) break;
    } else if (message.kind == static_cast<uint32_t>(Ask::kWrite) && count == 1) {
      const Failure failure = write_files(fds[0]);
      sys::close(fds[0]);
      if (failure) {
        tell(Tell::kFailed, failure);
      } else {
        tell(Tell::kWritten);
      }
    }
  }
  uint32_t left = 0;
  if (!namespaced()) kill_all(false, &left);
  sys::exit(0);
}

}  // namespace

}  // namespace codeshell::sandbox

extern "C" [[noreturn]] void keeper_main() { codeshell::sandbox::main(); }

// The first instruction of the program: aligns the stack as the compiler expects it.
#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp, %ebp\n and $-16, %rsp\n call keeper_main\n");
#else
__asm__(".globl _start\n_start: mov x29, xzr\n mov x30, xzr\n bl keeper_main\n");
#endif
