"""Ctrl-C for a script in a process of its own, because a signal that comes after the call would end the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WORK = 0.15
"""Seconds of processor time of the script before Ctrl-C: after them it is in the call, however full the machine is."""


def _processor_seconds(pid: int) -> float:
    """User and system time of a process; stat(5) numbers them 14 and 15, after the name in parentheses."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def interrupted(script: str, *arguments: str) -> str:
    """What a script prints after the line "begun", if Ctrl-C comes while it works.

    Args:
        script: Python code that prints "begun" directly before work that takes much longer than `WORK`.

    Raises:
        subprocess.TimeoutExpired: it did not end.
        subprocess.CalledProcessError: it ended with an error; also if it ended before it had worked that long.
    """
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        # A shell makes its background jobs ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:
        try:
            assert child.stdout is not None
            line = child.stdout.readline()
            assert line == "begun\n", line
            end = _processor_seconds(child.pid) + WORK
            while child.poll() is None and _processor_seconds(child.pid) < end:
                time.sleep(0.01)
            child.send_signal(signal.SIGINT)
            told, _ = child.communicate(timeout=100)
        finally:
            child.kill()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, told)
    return told
