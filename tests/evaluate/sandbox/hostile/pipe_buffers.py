"""Memory in the buffers of pipes."""

import fcntl
import os

count = 0
try:
    while count < 4000:
        _, end = os.pipe()
        os.set_blocking(end, False)
        try:
            fcntl.fcntl(end, 1031, 1 << 20)
        except OSError:
            pass
        try:
            while True:
                os.write(end, bytes(65536))
        except BlockingIOError:
            pass
        count += 1
    print("LEAK")
except OSError:
    print("held")
