"""A daemon that changes its number all the time."""

import os
import time

if os.fork() == 0:
    os.setsid()
    while True:
        try:
            if os.fork() != 0:
                os._exit(0)
        except OSError:
            time.sleep(0.001)
time.sleep(0.05)
