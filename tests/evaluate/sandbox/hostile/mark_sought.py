"""Marks of the program before."""

import ctypes
import os
import socket

for folder in ("/tmp", "/box", "/dev/shm", "/var/tmp", os.getcwd()):
    if os.path.exists(os.path.join(folder, "left")):
        print("LEAK", folder)
libc = ctypes.CDLL(None)
if libc.shmget(424242, 4096, 0) >= 0 or libc.msgget(424242, 0) >= 0:
    print("LEAK ipc")
try:
    socket.socket(socket.AF_UNIX).connect("\0codeshell-left")
    print("LEAK socket")
except OSError:
    pass
