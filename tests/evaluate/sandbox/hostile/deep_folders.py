"""Folders in folders, without permissions."""

import os

try:
    for _ in range(2000):
        os.mkdir("d")
        os.chdir("d")
except OSError:
    pass
for _ in range(50):
    os.chmod(".", 0)
    try:
        os.chdir("..")
    except OSError:
        break
print("done")
