"""Checks of arguments that several functions of the package take."""

from __future__ import annotations

import os
from typing import SupportsIndex

MAX_THREADS = 1024
"""Far beyond any use; OpenMP's runtime ends the process where the system gives it no more threads."""


def thread_count(threads: int) -> int:
    """`threads`, or for 0 the cores that this process may use.

    Raises:
        ValueError: `threads` is negative, more than `MAX_THREADS` or no whole number.
    """
    if not isinstance(threads, SupportsIndex):
        raise ValueError(f"threads: {threads!r} is not a whole number")
    if not 0 <= threads <= MAX_THREADS:
        raise ValueError(f"threads: {threads} is not in 0..{MAX_THREADS}; 0 means all cores")
    return threads or len(os.sched_getaffinity(0))
