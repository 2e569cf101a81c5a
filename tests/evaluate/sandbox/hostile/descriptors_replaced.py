"""Replaces all descriptors."""

import os

null = os.open("/dev/null", os.O_RDWR)
for number in range(512):
    try:
        os.dup2(null, number)
    except OSError:
        pass
