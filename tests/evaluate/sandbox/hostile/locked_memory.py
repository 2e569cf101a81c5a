"""Memory that cannot be swapped."""

import ctypes

libc = ctypes.CDLL(None)
block = ctypes.create_string_buffer(32 << 20)
print("LEAK" if libc.mlock(block, len(block)) == 0 else "held", libc.mlockall(3))
