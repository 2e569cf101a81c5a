"""A daemon that keeps the output open."""

import os
import time

if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
print("done")
