"""Descriptors of the host."""

import os

for number in range(3, 2048):
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        continue
    if not target.startswith("/proc/"):
        print("LEAK", number, target)
