// A list of what is refused, not of what is allowed: the toolchains of twenty languages need most calls. Refused is what
// opens a way out, holds memory that no limit counts, or is a large part of the kernel that no program of a benchmark
// needs. What is refused fails with EPERM, and the program continues; a call of another architecture ends it.
#include "sandbox/filter.h"

#include <asm/unistd.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

namespace codeshell::sandbox {

namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#else
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#endif

// Namespaces, mounts and the identity of the machine: what a server of ours may do, and a program may not.
const int kNamespaceCalls[] = {
    __NR_mount,
    __NR_umount2,
    __NR_pivot_root,
    __NR_chroot,
    __NR_unshare,
    __NR_setns,
    __NR_sethostname,
    __NR_setdomainname,
    __NR_move_mount,
    __NR_open_tree,
    __NR_fsopen,
    __NR_fsconfig,
    __NR_fsmount,
    __NR_fspick,
    442 /* mount_setattr */,
    467 /* open_tree_attr */,
};

const int kAlways[] = {
    // Other processes' memory and state.
    __NR_ptrace,
    __NR_process_vm_readv,
    __NR_process_vm_writev,
    __NR_kcmp,
    __NR_pidfd_getfd,
    440 /* process_madvise */,
    448 /* process_mrelease */,
    // Large parts of the kernel, and memory that is not counted.
    __NR_bpf,
    __NR_perf_event_open,
    __NR_userfaultfd,
    __NR_io_uring_setup,
    __NR_io_uring_enter,
    __NR_io_uring_register,
    __NR_keyctl,
    __NR_add_key,
    __NR_request_key,
    447 /* memfd_secret */,
    __NR_vmsplice,
    __NR_fanotify_init,
    __NR_move_pages,
    __NR_migrate_pages,
    // The machine.
    __NR_reboot,
    __NR_kexec_load,
    __NR_kexec_file_load,
    __NR_init_module,
    __NR_finit_module,
    __NR_delete_module,
    __NR_swapon,
    __NR_swapoff,
    __NR_syslog,
    __NR_acct,
    __NR_quotactl,
    443 /* quotactl_fd */,
    __NR_settimeofday,
    __NR_clock_settime,
    __NR_clock_adjtime,
    __NR_adjtimex,
    __NR_vhangup,
    __NR_name_to_handle_at,
    __NR_open_by_handle_at,
    __NR_lookup_dcookie,
    // Priorities: real time would starve the keeper.
    __NR_sched_setscheduler,
    __NR_sched_setattr,
    __NR_sched_setparam,
    __NR_ioprio_set,
#if defined(__x86_64__)
    __NR_iopl,
    __NR_ioperm,
    __NR_modify_ldt,
    __NR_uselib,
    __NR_ustat,
    __NR_sysfs,
    __NR__sysctl,
    __NR_kexec_load,
#endif
};

// Where the host's IPC is in reach: what would stay after the program, or reach the next one.
const int kSharedCalls[] = {
    __NR_shmget, __NR_shmat,  __NR_shmctl, __NR_semget, __NR_semop,   __NR_semctl,    __NR_semtimedop,
    __NR_msgget, __NR_msgsnd, __NR_msgrcv, __NR_msgctl, __NR_mq_open, __NR_mq_unlink, __NR_socket,
};

constexpr uint32_t kNamespaceFlags =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

class Writer {
 public:
  std::vector<sock_filter> code;

  void load(uint32_t offset) { code.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)); }
  void give(uint32_t result) { code.push_back(BPF_STMT(BPF_RET | BPF_K, result)); }
  void refuse(int error) { give(SECCOMP_RET_ERRNO | static_cast<uint32_t>(error)); }

  // `inner` runs if the loaded value is `value`.
  template <typename Inner>
  void when(uint32_t value, Inner inner) {
    const size_t jump = code.size();
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0));
    inner();
    code[jump].jf = static_cast<uint8_t>(code.size() - jump - 1);
  }
  // `inner` runs if the loaded value has one of the bits.
  template <typename Inner>
  void when_any(uint32_t bits, Inner inner) {
    const size_t jump = code.size();
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 0));
    inner();
    code[jump].jf = static_cast<uint8_t>(code.size() - jump - 1);
  }
  void refuse_call(int number, int error) {
    when(static_cast<uint32_t>(number), [&] { refuse(error); });
  }
};

constexpr uint32_t kNumber = offsetof(seccomp_data, nr);
// The low and the high word of an argument; both architectures are little-endian.
constexpr uint32_t low(int argument) { return offsetof(seccomp_data, args) + 8 * static_cast<uint32_t>(argument); }
constexpr uint32_t high(int argument) { return low(argument) + 4; }

}  // namespace

std::vector<sock_filter> make_filter(Filter kind, bool scoped) {
  Writer filter;
  filter.load(offsetof(seccomp_data, arch));
  filter.code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0));
  filter.give(SECCOMP_RET_KILL_PROCESS);
  filter.load(kNumber);
#if defined(__x86_64__)
  // The x32 calls would get past the numbers below.
  filter.code.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1));
  filter.refuse(ENOSYS);
#endif
  for (const int call : kAlways) filter.refuse_call(call, EPERM);
  if (kind != Filter::kNested) {
    for (const int call : kNamespaceCalls) filter.refuse_call(call, EPERM);
    // A filter cannot see the flags of clone3, which lie in memory; libraries fall back to clone.
    filter.refuse_call(__NR_clone3, ENOSYS);
    filter.when(__NR_clone, [&] {
      filter.load(low(0));
      filter.when_any(kNamespaceFlags, [&] { filter.refuse(EPERM); });
      filter.give(SECCOMP_RET_ALLOW);
    });
  }
  // Characters pushed into a terminal.
  filter.when(__NR_ioctl, [&] {
    filter.load(low(1));
    filter.when(TIOCSTI, [&] { filter.refuse(EPERM); });
    filter.when(TIOCLINUX, [&] { filter.refuse(EPERM); });
    filter.give(SECCOMP_RET_ALLOW);
  });
  // No personality but those without a meaning for security: the present one, Linux, Linux without random addresses.
  filter.when(__NR_personality, [&] {
    filter.load(low(0));
    for (const uint32_t allowed : {0xffffffffu, 0u, 0x0040000u}) {
      filter.when(allowed, [&] { filter.give(SECCOMP_RET_ALLOW); });
    }
    filter.refuse(EPERM);
  });
  if (kind != Filter::kNested) {
    // Limits of other processes, the keeper's above all: it has the same user, and a limit of 0 would end it.
    filter.when(__NR_prlimit64, [&] {
      filter.load(low(0));
      filter.when(0, [&] { filter.give(SECCOMP_RET_ALLOW); });
      filter.refuse(EPERM);
    });
  }
  if (kind == Filter::kShared) {
    for (const int call : kSharedCalls) filter.refuse_call(call, EPERM);
    if (!scoped) {
      // Signals to whom this is not certain: all but the own group (0) are refused.
      for (const int call : {__NR_kill, __NR_tkill, __NR_pidfd_send_signal, __NR_rt_sigqueueinfo}) {
        filter.when(static_cast<uint32_t>(call), [&] {
          filter.load(low(0));
          filter.when(0, [&] { filter.give(SECCOMP_RET_ALLOW); });
          filter.refuse(EPERM);
        });
      }
    }
  } else {
    // The namespace has no network. These families are enough for libraries to start; the others are kernel code
    // that has been attacked before.
    filter.when(__NR_socket, [&] {
      filter.load(low(0));
      for (const uint32_t family : {1u /* unix */, 2u /* inet */, 10u /* inet6 */}) {
        filter.when(family, [&] { filter.give(SECCOMP_RET_ALLOW); });
      }
      filter.refuse(EAFNOSUPPORT);
    });
  }
  filter.give(SECCOMP_RET_ALLOW);
  return filter.code;
}

}  // namespace codeshell::sandbox
