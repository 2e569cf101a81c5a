"""Signals to the parent, to its group, to everybody."""

import os
import signal

for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV):
    for target in (os.getppid(), int(os.environ["HOST_PID"]), -int(os.environ["HOST_PID"]), -1):
        if target != 0:
            try:
                os.kill(target, number)
            except OSError:
                pass
print("still here")
