"""Priority over everybody."""

import os

for attempt in (
    lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)),
    lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(50)),
    lambda: os.nice(-10),
    lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
):
    try:
        attempt()
        print("LEAK")
    except OSError:
        pass
