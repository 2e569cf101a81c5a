"""A daemon in a session of its own."""

import ctypes
import os
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(3):
            os.close(number)
        ctypes.CDLL(None).prctl(15, os.environ["MARK"][:15].encode(), 0, 0, 0)
        time.sleep(1000)
    os._exit(0)
