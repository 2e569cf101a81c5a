"""Files in homes, temporary folders and the system."""

import os

for folder in (
    "/root",
    "/home",
    "/var/tmp",
    "/usr/local",
    "/usr/lib",
    "/etc",
    "/opt",
    "/srv",
    "/",
    "/run",
    "/tmp/..",
    os.path.dirname(os.environ["CANARY"]),
):
    try:
        os.close(os.open(os.path.join(folder, os.environ["MARK"]), os.O_CREAT | os.O_WRONLY))
        print("LEAK", folder)
    except OSError:
        pass
