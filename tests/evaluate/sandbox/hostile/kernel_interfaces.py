"""Parts of the kernel that have been attacked before."""

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
calls = {
    "bpf": (321 if x86 else 280, 0, 0, 0),
    "perf_event_open": (298 if x86 else 241, ctypes.create_string_buffer(128), 0, -1),
    "userfaultfd": (323 if x86 else 282, 1, 0, 0),
    "io_uring_setup": (425, 1, ctypes.create_string_buffer(256), 0),
    "keyctl": (250 if x86 else 219, 0, -3, 0),
    "memfd_secret": (447, 0, 0, 0),
    "syslog": (103 if x86 else 116, 10, 0, 0),
    "kexec_load": (246 if x86 else 104, 0, 0, 0),
    "fanotify_init": (300 if x86 else 262, 0, 0, 0),
}
for name, arguments in calls.items():
    if libc.syscall(*arguments) >= 0 or ctypes.get_errno() not in (1, 38):
        print("LEAK", name, ctypes.get_errno())
