"""Namespaces and mounts of its own."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x4000000, 0x8000000, 0x2000000):
    if libc.unshare(flag) == 0:
        print("LEAK unshare", hex(flag))
    if libc.syscall(56 if os.uname().machine == "x86_64" else 220, flag | 17, 0, 0, 0, 0) > 0:
        print("LEAK clone", hex(flag))
for kind in (b"tmpfs", b"proc", b"sysfs", b"devtmpfs", b"cgroup2"):
    if libc.mount(b"x", b".", kind, 0, None) == 0:
        print("LEAK mount", kind)
if libc.umount2(b"/proc", 2) == 0 or libc.mount(None, b"/usr", None, 4128, None) == 0:
    print("LEAK remount")
for name in ("user", "mnt", "pid", "net"):
    try:
        if libc.setns(os.open(f"/proc/1/ns/{name}", os.O_RDONLY), 0) == 0:
            print("LEAK setns", name)
    except OSError:
        pass
