// The processes below the keeper, from /proc. The kernel's files are trusted, names of processes in them are not.
#include "sandbox/processes.h"

#include <fcntl.h>

#include "sandbox/memory.h"
#include "sandbox/syscalls.h"

namespace codeshell::sandbox {

namespace {

using sys::of;

constexpr uint32_t kMost = 32768;  // processes of the machine at levels 1 and 2; far more than a namespace may have

struct Process {
  int32_t pid, parent;
  bool below;
};

Process g_processes[kMost];

// Numbers of /proc/PID/stat after the name, which may hold anything: it ends at the last parenthesis.
struct Stat {
  int64_t parent = 0;
  uint64_t ticks = 0, pages = 0;
};

bool read_file(const char* path, char* data, size_t size) {
  const long file = sys::openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const long count = sys::read(file, data, size - 1);
  sys::close(file);
  data[count > 0 ? count : 0] = 0;
  return count > 0;
}

bool read_stat(int32_t pid, Stat* stat) {
  char text[1024];
  Line<64> path;
  path.add("/proc/").add(static_cast<uint64_t>(pid)).add("/stat");
  if (!read_file(path.text, text, sizeof text)) return false;
  const char* at = text + length_of(text);
  while (at > text && *at != ')') --at;
  if (at == text) return false;
  // Field 3 is the state; 4 the parent, 14 to 17 the times, 24 the resident pages.
  ++at;
  for (int field = 3; field <= 24; ++field) {
    while (*at == ' ') ++at;
    if (field == 3) {
      ++at;
      continue;
    }
    if (*at == '-') ++at;
    const uint64_t number = number_at(at, &at);
    if (field == 4) stat->parent = static_cast<int64_t>(number);
    if (field >= 14 && field <= 17) stat->ticks += number;
    if (field == 24) stat->pages = number;
  }
  return true;
}

// Calls `each(pid)` for the numbers in /proc.
template <typename Each>
void for_pids(Each each) {
  const long folder = sys::openat(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  alignas(8) char entries[8192];
  for (;;) {
    const long count = sys::call(__NR_getdents64, folder, of(entries), sizeof entries);
    if (count <= 0) break;
    for (long at = 0; at < count;) {
      // struct linux_dirent64: inode 8, offset 8, length 2, type 1, name.
      const char* entry = entries + at;
      const char* name = entry + 19;
      if (*name >= '1' && *name <= '9') each(static_cast<int32_t>(number_at(name)));
      at += *reinterpret_cast<const uint16_t*>(entry + 16);
    }
  }
  sys::close(folder);
}

// Fills g_processes with what is below the keeper; returns how many. Outside a namespace of its own these are the
// processes whose parents lead to it: orphans too, since it is their subreaper.
uint32_t list(bool namespaced) {
  const int32_t self = static_cast<int32_t>(sys::call(__NR_getpid));
  uint32_t count = 0;
  for_pids([&](int32_t pid) {
    if (pid == self || pid == 1 || count == kMost) return;
    Stat stat;
    if (!namespaced && !read_stat(pid, &stat)) return;
    g_processes[count++] = {pid, static_cast<int32_t>(stat.parent), namespaced || stat.parent == self};
  });
  if (namespaced) return count;
  for (bool more = true; more;) {
    more = false;
    for (uint32_t i = 0; i < count; ++i) {
      if (g_processes[i].below) continue;
      for (uint32_t j = 0; j < count && !g_processes[i].below; ++j) {
        g_processes[i].below = g_processes[j].below && g_processes[j].pid == g_processes[i].parent;
      }
      more |= g_processes[i].below;
    }
  }
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (g_processes[i].below) g_processes[kept++] = g_processes[i];
  }
  return kept;
}

}  // namespace

Usage measure(bool namespaced) {
  Usage usage;
  const uint32_t count = list(namespaced);
  for (uint32_t i = 0; i < count; ++i) {
    Stat stat;
    if (!read_stat(g_processes[i].pid, &stat)) continue;
    usage.ticks += stat.ticks;
    usage.memory += stat.pages * 4096;
    ++usage.processes;
  }
  return usage;
}

uint64_t measure_exactly(bool namespaced) {
  uint64_t kilobytes = 0;
  const uint32_t count = list(namespaced);
  for (uint32_t i = 0; i < count; ++i) {
    char text[4096];
    Line<64> path;
    path.add("/proc/").add(static_cast<uint64_t>(g_processes[i].pid)).add("/smaps_rollup");
    if (!read_file(path.text, text, sizeof text)) continue;
    for (const char* at = text; *at; ++at) {
      if (at[0] == '\n' && at[1] == 'P' && at[2] == 's' && at[3] == 's' && at[4] == ':') {
        at += 5;
        while (*at == ' ') ++at;
        kilobytes += number_at(at);
        break;
      }
    }
  }
  return kilobytes * 1024;
}

uint32_t kill_all(bool namespaced, uint32_t* left) {
  uint32_t seen = 0;
  *left = 0;
  if (namespaced) {
    // From pid 1 this reaches every process of the namespace at once, stopped or forking.
    if (sys::call(__NR_kill, -1, 9) == 0) seen = list(true);
    while (sys::call(__NR_wait4, -1, 0, 0, 0) > 0) {
    }
    *left = list(true);
    return seen;
  }
  // The usual case: the program was the last, and was waited for.
  if (sys::call(__NR_wait4, -1, 0, 1, 0) == -10) return 0;
  // One by one, until the subreaper has no child: a process that forks faster than this is stopped by its limit.
  for (int round = 0; round < 1000; ++round) {
    const uint32_t count = list(false);
    for (uint32_t i = 0; i < count; ++i) sys::call(__NR_kill, g_processes[i].pid, 19);
    for (uint32_t i = 0; i < count; ++i) sys::call(__NR_kill, g_processes[i].pid, 9);
    if (round == 0) seen = count;
    // Wait for those whose parent is the keeper; the others become its children now.
    for (;;) {
      const long reaped = sys::call(__NR_wait4, -1, 0, count ? 0 : 1, 0);
      if (reaped == -10) return seen;
      if (reaped <= 0) break;
      if (list(false)) {
        break;
      }
    }
  }
  *left = list(false);
  return seen;
}

}  // namespace codeshell::sandbox
