"""Segments of System V memory."""

import ctypes

libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for number in range(16):
    segment = libc.shmget(1000 + number, 64 << 20, 0o1666)
    if segment < 0:
        break
    address = libc.shmat(segment, None, 0)
    if address in (None, 2**64 - 1):
        break
    ctypes.memset(address, 1, 64 << 20)
else:
    print("LEAK")
