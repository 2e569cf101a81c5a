"""Passwords and homes."""

import os

for path in ("/etc/shadow", "/etc/gshadow", "/root/.bashrc", "/root/.ssh", "/etc/ssh", "/etc/sudoers", "/var/log"):
    try:
        print("LEAK", path, os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(10))
    except OSError:
        pass
