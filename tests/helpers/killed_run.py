"""Runs `codeshell ARGUMENTS…` and SIGKILLs itself at the N-th file that goes to its final name below DIR.

    python killed_run.py DIR N ARGUMENTS…

The kill comes just before the rename, so the file is written and not there: the worst moment, and always the same.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
from pathlib import Path
from typing import Any

directory, number = Path(sys.argv[1]).absolute(), int(sys.argv[2])
renames = 0


def killing(rename: Any) -> Any:
    def wrapper(source: Any, target: Any, *more: Any, **settings: Any) -> Any:
        global renames
        path = Path(os.fsdecode(target)).absolute()
        if directory in path.parents and path.name != "key.json":
            renames += 1
            if renames == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return rename(source, target, *more, **settings)

    return wrapper


os.replace = killing(os.replace)  # pathlib calls these by their names in os
os.rename = killing(os.rename)
assert pathlib.Path.replace.__module__ == "pathlib"

from codeshell.cli import main  # noqa: E402

sys.exit(main(sys.argv[3:]))
