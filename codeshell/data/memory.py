"""Keeps a worker's memory flat over thousands of shards."""

from __future__ import annotations

import contextlib
import ctypes
import functools

M_MMAP_THRESHOLD = -3
LARGE_BYTES = 1 << 20


@functools.cache
def give_back_large_blocks() -> None:
    """Make the C library hand blocks over 1 MB back to the system as soon as they are freed; once a process.

    glibc raises its threshold for this by itself, up to 32 MB, whenever such a block is freed; the buffers of row
    groups then come from a heap that texts of all sizes break up, and it creeps: 286 MB after 700 MB of input, where
    a fixed threshold stays at 156. Elsewhere this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
