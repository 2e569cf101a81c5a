// What a program loses between fork and exec: limits, capabilities, new privileges, files (Landlock), system calls.
#include "sandbox/confine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/stat.h>

#include "sandbox/syscalls.h"

namespace codeshell::sandbox {

namespace {

using sys::of;

Failure failed(Step step, long result, uint32_t index = 0) { return {step, -result, index}; }

long prctl(long option, long a = 0, long b = 0, long c = 0, long d = 0) {
  return sys::call(__NR_prctl, option, a, b, c, d);
}

// Numbers of RLIMIT_*, the same on x86-64 and aarch64.
enum Resource { kCpu = 0, kFsize = 1, kStack = 3, kCore = 4, kNproc = 6, kNofile = 7, kMemlock = 8, kAs = 9 };
constexpr Resource kNice = Resource(13), kRtprio = Resource(14);

struct Limit {
  uint64_t soft, hard;
};

// Lowers a limit; a value above what this process may have becomes that.
long limit(Resource resource, uint64_t soft, uint64_t hard) {
  Limit now = {};
  long result = sys::call(__NR_prlimit64, 0, resource, 0, of(&now));
  if (result < 0) return result;
  const Limit wanted = {soft < now.hard ? soft : now.hard, hard < now.hard ? hard : now.hard};
  return sys::call(__NR_prlimit64, 0, resource, of(&wanted), 0);
}

Failure set_limits(const Request& request) {
  long result = limit(kCore, 0, 0);
  // The tree's CPU time is counted by the keeper; this is the net for one process, a second later.
  const uint64_t seconds = request.cpu_us / 1000000 + 2;
  if (result >= 0 && request.cpu_us) result = limit(kCpu, seconds, seconds);
  if (result >= 0 && request.file_bytes) result = limit(kFsize, request.file_bytes, request.file_bytes);
  if (result >= 0 && request.processes) result = limit(kNproc, request.processes, request.processes);
  if (result >= 0 && request.address_space) result = limit(kAs, request.address_space, request.address_space);
  if (result >= 0 && request.stack) result = limit(kStack, request.stack, ~0ull);
  if (result >= 0) result = limit(kNofile, 1024, 1024);
  if (result >= 0) result = limit(kMemlock, 65536, 65536);
  if (result >= 0) result = limit(kNice, 0, 0);
  if (result >= 0) result = limit(kRtprio, 0, 0);
  return result < 0 ? failed(Step::kDrop, result) : Failure{};
}

long set_capabilities(uint64_t mask, uint64_t inheritable) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  for (int i = 0; i < 2; ++i) {
    data[i].effective = data[i].permitted = static_cast<uint32_t>(mask >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(inheritable >> (32 * i));
  }
  return sys::call(__NR_capset, of(&header), of(data));
}

// What a program of ours needs to make namespaces for others: KILL, SETPCAP, SYS_ADMIN, SYS_RESOURCE.
constexpr uint64_t kNestedCapabilities = 1ull << 5 | 1ull << 8 | 1ull << 21 | 1ull << 24;

Failure drop_capabilities(bool nested) {
  const uint64_t kept = nested ? kNestedCapabilities : 0;
  // Without CAP_SETPCAP (levels 1 and 2 of an ordinary user) there is nothing to lose here.
  for (long bit = 0; bit < 64; ++bit) {
    if (!(kept >> bit & 1) && prctl(PR_CAPBSET_DROP, bit) == -22) break;
  }
  const long result = set_capabilities(kept, kept);
  if (result < 0) return failed(Step::kDrop, result);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
  for (long bit = 0; bit < 64; ++bit) {
    if (kept >> bit & 1) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit);
  }
  return {};
}

constexpr uint64_t kRead = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr uint64_t kOfFiles =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | 1ull << 14;

// Every right that an ABI knows: 13 of ABI 1, then REFER, TRUNCATE, IOCTL_DEV.
uint64_t rights_of(uint32_t abi) {
  uint64_t rights = (1ull << 13) - 1;
  if (abi >= 2) rights |= 1ull << 13;
  if (abi >= 3) rights |= 1ull << 14;
  if (abi >= 5) rights |= 1ull << 15;
  return rights;
}

Failure close_files(const Setup& setup, const int* rules, int folder) {
  // struct landlock_ruleset_attr of ABI 6; older kernels take the first bytes of it.
  struct {
    uint64_t files, network, scopes;
  } attributes = {rights_of(setup.landlock_abi), 0, 0};
  size_t size = 8;
  if (setup.landlock_abi >= 4) {
    attributes.network = 3;
    size = 16;
  }
  if (setup.landlock_abi >= 6) {
    attributes.scopes = 3;  // abstract sockets, signals
    size = 24;
  }
  const long ruleset = sys::call(__NR_landlock_create_ruleset, of(&attributes), static_cast<long>(size), 0);
  if (ruleset < 0) return failed(Step::kLandlock, ruleset);
  for (uint32_t i = 0; i <= setup.binds; ++i) {
    const bool work = i == setup.binds;
    const int fd = work ? folder : rules[i];
    if (fd < 0) continue;
    struct statx found = {};
    sys::call(__NR_statx, fd, of(""), 0x1000, STATX_TYPE, of(&found));
    const bool is_folder = (found.stx_mode & 0170000) == 0040000;
    const uint32_t flags = work ? static_cast<uint32_t>(kWritable) : setup.flags[i];
    uint64_t rights = flags & kWritable ? rights_of(setup.landlock_abi) & ~(1ull << 15) : kRead;
    if (flags & kDevice) rights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;
    if (!is_folder) rights &= kOfFiles;
    landlock_path_beneath_attr rule = {};
    rule.allowed_access = rights & rights_of(setup.landlock_abi);
    rule.parent_fd = fd;
    const long added = sys::call(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, of(&rule), 0);
    if (added < 0) return failed(Step::kLandlock, added, i);
  }
  const long result = sys::call(__NR_landlock_restrict_self, ruleset, 0);
  sys::close(ruleset);
  return result < 0 ? failed(Step::kLandlock, result) : Failure{};
}

}  // namespace

Failure confine(const Setup& setup, const Request& request, const char* instructions, const int* rules, int folder) {
  // The first victim where memory ends, before the keeper. The file belongs to the process only if that is dumpable.
  prctl(PR_SET_DUMPABLE, 1);
  const long score = sys::openat(AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0) {
    sys::write(score, "1000", 4);
    sys::close(score);
  }
  if (const Failure failure = set_limits(request)) return failure;
  if (setup.level < kNamespaces && setup.change) {
    // Root becomes nobody for good; the keeper stays root, so that the program cannot touch it.
    const long uid = setup.uid, gid = setup.gid;
    long result = sys::call(__NR_setgroups, 0, 0);
    if (result >= 0) result = sys::call(__NR_setresgid, gid, gid, gid);
    if (result >= 0) result = sys::call(__NR_setresuid, uid, uid, uid);
    if (result < 0) return failed(Step::kIdentity, result);
    prctl(PR_SET_DUMPABLE, 1);
  }
  if (const Failure failure = drop_capabilities(request.nested)) return failure;
  long result = prctl(PR_SET_NO_NEW_PRIVS, 1);
  if (result < 0) return failed(Step::kDrop, result);
  if (setup.level == kLandlock) {
    if (const Failure failure = close_files(setup, rules, folder)) return failure;
  }
  // The last thing that a change of identity or of capabilities would clear.
  prctl(PR_SET_PDEATHSIG, 9);
  if (!request.instructions) return {};
  sock_fprog program = {};
  program.len = static_cast<unsigned short>(request.instructions);
  program.filter = reinterpret_cast<sock_filter*>(const_cast<char*>(instructions));
  result = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, of(&program));
  return result < 0 ? failed(Step::kFilter, result) : Failure{};
}

void keep_capabilities(uint64_t mask) { set_capabilities(mask, mask); }

}  // namespace codeshell::sandbox
