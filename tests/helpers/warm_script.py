"""A helper file that runs as a script and does one job for each line it reads, so that imports are paid for once.

The script reads a job from a line of JSON on its standard input and answers with a line on its standard output. It is
sound to fork in it for each job, as long as the script itself computes nothing with torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self


class WarmScript:
    """The script, as long as the `with` block. At its end everything that the script started is killed, too.

    Args:
        file: of the script.
        environment: its variables; the folder of the tests is added to PYTHONPATH.
    """

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        # The script imports its helpers as the tests do.
        paths = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
        self._file = file
        self._environment = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def __enter__(self) -> Self:
        self._script = subprocess.Popen(
            [sys.executable, self._file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        # The whole session, because a job may hang.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._script.pid, signal.SIGKILL)
        self._script.communicate()

    def send(self, job: str) -> None:
        """Give the script a job, in one line."""
        assert self._script.stdin
        print(job, file=self._script.stdin, flush=True)

    def answer(self) -> str:
        """The next line that the script prints."""
        assert self._script.stdout
        return self._script.stdout.readline()


def redirect(error: str) -> None:
    """In a process that the script has forked: there is nothing to read, what it prints is thrown away, and what it
    prints as errors goes to a file."""
    for stream, name, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, os.devnull, os.O_WRONLY),
        (2, error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        os.dup2(os.open(name, how, 0o644), stream)
