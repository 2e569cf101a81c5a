"""8 children, each below the limit."""

import os
import time

children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        block = bytearray(80 << 20)
        time.sleep(1)
        os._exit(0)
    children.append(child)
statuses = [os.waitpid(child, 0)[1] for child in children]
print("LEAK" if not any(statuses) else "held")
