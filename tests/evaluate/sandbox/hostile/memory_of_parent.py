"""The memory of other processes."""

import os

for process in {1, os.getppid(), int(os.environ["HOST_PID"])}:
    for mode in ("rb", "r+b"):
        try:
            with open(f"/proc/{process}/mem", mode) as memory:
                print("LEAK opened", process, memory.seek(0x400000), memory.read(4))
        except OSError:
            pass
