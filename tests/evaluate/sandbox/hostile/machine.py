"""The machine's name, clock and power."""

import ctypes
import time

libc = ctypes.CDLL(None, use_errno=True)
if libc.sethostname(b"hostile", 7) == 0:
    print("LEAK name")
try:
    time.clock_settime(time.CLOCK_REALTIME, 0)
    print("LEAK clock")
except OSError:
    pass
# CAD off: harmless if it worked.
if libc.reboot(0) == 0:
    print("LEAK power")
