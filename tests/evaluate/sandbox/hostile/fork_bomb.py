"""500 processes at a time."""

import os
import time

count = 0
try:
    while count < 500:
        if os.fork() == 0:
            time.sleep(1000)
            os._exit(0)
        count += 1
except OSError:
    pass
print("LEAK" if count >= int(os.environ["PROCESSES"]) else "held", count)
