"""The root of the first process, and folders above its own."""

import os

mark = os.path.dirname(os.environ["CANARY"])
for root in ("/proc/1/root", "/proc/1/cwd", "/proc/self/root", "/..", "/../..", "/proc/self/cwd/.."):
    try:
        if os.path.exists(root + mark):
            print("LEAK", root, os.listdir(root + mark))
    except OSError:
        pass
try:
    os.chroot(".")
    print("LEAK chroot")
except OSError:
    pass
