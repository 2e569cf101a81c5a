"""Secrets in environments."""

import glob
import os

texts = [repr(dict(os.environ)).encode()]
for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
    try:
        with open(path, "rb") as file:
            texts.append(file.read())
    except OSError:
        pass
if any(b"codeshell-secret" in text for text in texts):
    print("LEAK")
