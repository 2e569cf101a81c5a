"""Raises its own limits and lowers its parent's."""

import os
import resource

for name in (
    resource.RLIMIT_CPU,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_AS,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
):
    try:
        resource.setrlimit(name, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print("LEAK raised", name)
    except (OSError, ValueError):
        pass
    for process in (os.getppid(), int(os.environ["HOST_PID"])):
        try:
            resource.prlimit(process, name, (1, 1))
            print("LEAK lowered", name, process)
        except OSError:
            pass
