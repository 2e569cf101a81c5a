"""The stack of C."""

import sys

sys.setrecursionlimit(10**9)
value = []
for _ in range(10**6):
    value = [value]
print(len(repr(value)))
