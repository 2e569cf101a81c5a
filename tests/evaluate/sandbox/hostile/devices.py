"""Devices and settings of the kernel."""

import os
import stat

for number in ((1, 1), (8, 0), (254, 0), (10, 200)):
    try:
        os.mknod(f"node{number[0]}", stat.S_IFBLK | 0o666, os.makedev(*number))
        print("LEAK mknod", number)
    except OSError:
        pass
for path in (
    "/dev/mem",
    "/dev/kmsg",
    "/dev/vda",
    "/dev/sda",
    "/dev/kvm",
    "/dev/fuse",
    "/dev/net/tun",
    "/proc/kcore",
    "/proc/kmsg",
):
    try:
        os.open(path, os.O_RDWR)
        print("LEAK", path)
    except OSError:
        pass
for path in (
    "kernel/core_pattern",
    "kernel/hostname",
    "kernel/modprobe",
    "vm/overcommit_memory",
    "fs/file-max",
    "user/max_user_namespaces",
):
    try:
        os.open(f"/proc/sys/{path}", os.O_WRONLY)
        print("LEAK", path)
    except OSError:
        pass
try:
    os.open("/proc/sysrq-trigger", os.O_WRONLY)
    print("LEAK sysrq")
except OSError:
    pass
