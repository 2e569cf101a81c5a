"""`codeshell ARGUMENTS…` many times, each in a process of its own, but torch is imported once for all.

`Runs` starts this file as a script, which imports what the stages need and then forks for each command. That is sound
as long as the script itself computes nothing with torch. A command can be told to SIGKILL itself at the N-th file that
goes to its final name below a directory. The kill comes just before the rename, so the file is written and not there:
the worst moment, and always the same.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.warm_script import WarmScript, redirect


class Runs(WarmScript):
    """The script, as long as the `with` block.

    Args:
        environment: of all commands.
        folder: for what they print.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        super().__init__(__file__, environment)
        self._folder, self._jobs = folder, 0

    def run(self, arguments: Sequence[str], kill: tuple[Path, int] | None = None) -> tuple[int, str]:
        """Exit code, negative for a signal, and stderr of a command.

        Args:
            arguments: after `codeshell`.
            kill: SIGKILL at which file below which directory.
        """
        self._jobs += 1
        error = self._folder / f"stderr-{self._jobs}"
        job = {"arguments": list(arguments), "error": str(error), "kill": kill and [str(kill[0]), kill[1]]}
        self.send(json.dumps([self._jobs, job]))
        # An earlier test may have given up its command.
        number = 0
        while number != self._jobs:
            number, status = map(int, self.answer().split())
        return status, error.read_text()


def kill_at(directory: Path, number: int) -> None:
    """Let this process SIGKILL itself just before the `number`-th rename to a name below the directory."""
    renames = 0

    def killing(rename: Any) -> Any:
        def wrapper(source: Any, target: Any, *more: Any, **settings: Any) -> Any:
            nonlocal renames
            path = Path(os.fsdecode(target)).absolute()
            if directory in path.parents and path.name != "key.json":
                renames += 1
                if renames == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return rename(source, target, *more, **settings)

        return wrapper

    os.replace = killing(os.replace)  # pathlib calls these by their names in os
    os.rename = killing(os.rename)


def main() -> int:
    # As the commands do before their own imports.
    from codeshell.engine.arrow import leave_out_pandas

    leave_out_pandas()
    import torch._dynamo  # noqa: F401 (the optimizer imports it)

    import codeshell.evaluate
    import codeshell.report
    import codeshell.train.train_run
    from codeshell.cli import main as codeshell

    while line := sys.stdin.readline():
        number, job = json.loads(line)
        child = os.fork()
        if child:
            print(number, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        redirect(job["error"])
        if job["kill"]:
            kill_at(Path(job["kill"][0]).absolute(), job["kill"][1])
        return codeshell(job["arguments"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
