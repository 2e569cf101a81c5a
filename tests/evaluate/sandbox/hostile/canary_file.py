"""A file of the host that everybody may read and write."""

import os

for mode in ("r", "a"):
    try:
        with open(os.environ["CANARY"], mode) as file:
            print("LEAK", file.read() if mode == "r" else file.write("x"))
    except OSError:
        pass
