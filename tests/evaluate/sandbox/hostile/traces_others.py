"""Traces other processes."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
for process in {1, os.getppid(), int(os.environ["HOST_PID"])}:
    if libc.ptrace(16, process, None, None) == 0 or libc.ptrace(0x4206, process, None, None) == 0:
        print("LEAK", process)
local = ctypes.create_string_buffer(16)


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


here = Part(ctypes.addressof(local), 16)
if libc.process_vm_readv(os.getpid(), ctypes.byref(here), 1, ctypes.byref(here), 1, 0) > 0:
    print("LEAK process_vm_readv")
