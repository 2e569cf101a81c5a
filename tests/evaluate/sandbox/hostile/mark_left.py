"""Marks for the next program."""

import ctypes
import os
import socket

for folder in ("/tmp", "/box", "/dev/shm", "/var/tmp", os.getcwd()):
    try:
        open(os.path.join(folder, "left"), "w").close()
    except OSError:
        pass
libc = ctypes.CDLL(None)
libc.shmget(424242, 4096, 0o1666)
libc.msgget(424242, 0o1666)
try:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0codeshell-left")
    listener.listen()
    if os.fork() == 0:
        os.setsid()
        listener.accept()
except OSError:
    pass
