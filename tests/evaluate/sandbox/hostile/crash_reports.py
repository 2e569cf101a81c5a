"""Crash reports to every descriptor."""

import ctypes
import faulthandler

for number in range(3, 256):
    try:
        faulthandler.enable(number)
    except (OSError, ValueError):
        pass
ctypes.string_at(0)
