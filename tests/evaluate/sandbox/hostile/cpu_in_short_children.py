"""Children that nobody waits for, each short."""

import os
import signal

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    child = os.fork()
    if child == 0:
        sum(range(2_000_000))
        os._exit(0)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass
