"""Threads without end."""

import os
import threading
import time

count = 0
try:
    while count < 500:
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    pass
print("LEAK" if count >= int(os.environ["PROCESSES"]) else "held", count, flush=True)
os._exit(0)
