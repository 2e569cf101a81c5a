"""private stand-in over plain processes until the launcher's fork_program is there"""
from __future__ import annotations
import ctypes, os, resource
from typing import Any
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
FLAGS = 0x20000 | 0x08000000 | 0x20000000
def fork(request: dict[str, Any], files: list[int]) -> int:
    _libc.PyOS_BeforeFork()
    pid = _libc.syscall(56, FLAGS | 17, 0, 0, 0, 0)
    if pid:
        _libc.PyOS_AfterFork_Parent()
        return pid
    _libc.PyOS_AfterFork_Child()
    if os.environ.get("PLAIN_ROOT"):
        _libc.mount(b"none", b"/", None, 0x44000, None)
    _libc.mount(b"proc", b"/proc", b"proc", 14, None)
    _libc.mount(b"t", b"/tmp", b"tmpfs", 6, b"size=256m,nr_inodes=10000")
    _libc.mount(b"t", b"/dev/shm", b"tmpfs", 6, b"size=256m,nr_inodes=10000")
    os.chdir("/tmp")
    for what, value in ((resource.RLIMIT_CPU, int(request["cpu_seconds"]) + 1), (resource.RLIMIT_AS, request["memory"]), (resource.RLIMIT_FSIZE, request["file_bytes"]), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NPROC, request["processes"])):
        resource.setrlimit(what, (value, value))
    last = 2
    for fd in sorted(files):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, 1 << 20)
    return 0
TICKS = os.sysconf("SC_CLK_TCK")
def usage(pid: int) -> tuple[float, int]:
    cpu, pages, todo = 0, 0, [pid]
    while todo:
        one = todo.pop()
        try:
            fields = open(f"/proc/{one}/stat").read().rpartition(")")[2].split()
            cpu += sum(map(int, fields[11:15])); pages += int(fields[21])
            for task in os.listdir(f"/proc/{one}/task"):
                todo += map(int, open(f"/proc/{one}/task/{task}/children").read().split())
        except OSError:
            pass
    return cpu / TICKS, pages * 4096
def reap() -> None:
    pass
