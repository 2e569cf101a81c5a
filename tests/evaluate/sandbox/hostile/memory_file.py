"""Memory in a file without a name."""

import os

file = os.memfd_create("x")
block = bytes(1 << 20)
try:
    for _ in range(1024):
        os.write(file, block)
    print("LEAK")
except OSError:
    print("held")
