"""Links where results might be read or removed."""

import os

for number, target in enumerate(("/etc/passwd", os.path.dirname(os.environ["CANARY"]), "/", "/proc/1/root", "..")):
    os.symlink(target, f"link{number}")
