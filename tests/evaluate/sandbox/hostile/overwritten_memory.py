"""Overwrites the interpreter."""

import ctypes

ctypes.memset(id(object), 255, 4096)
print(object())
