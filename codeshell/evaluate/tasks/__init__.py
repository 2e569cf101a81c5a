"""The evaluation tasks of the package, one file each; `codeshell.evaluate.task` says what a task is.

To add one, write its file here and its line in `TASKS`. A task outside the package is named by `FILE.py:NAME` or
`package.module:NAME` wherever a name is taken.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from codeshell.errors import UserError
from codeshell.registry import Registry

if TYPE_CHECKING:
    from codeshell.evaluate.task import Task

TASKS: Registry[Any] = Registry(
    "task",
    {
        "bits_per_byte": "codeshell.evaluate.tasks.compression:Compression",
        "infill": "codeshell.evaluate.tasks.infill:Infill",
        "functions": "codeshell.evaluate.tasks.functions:Functions",
        "positions": "codeshell.evaluate.tasks.positions:Positions",
    },
)
"""In the order in which the evaluation of a run does them and the report shows them."""

ALIASES = {"bpb": "bits_per_byte"}
"""Short names on the command line."""

RESERVED = ("all", "claims", "failure", "held_out", "not_run", "sections")
"""Names that mean something else on the command line or in `stats.json`."""

_NAME = re.compile(r"[A-Za-z0-9][\w.+:-]*", re.ASCII)


def code_of(name: str) -> str:
    """A text that changes with the code of a task outside the package; empty for those of the package.

    From here on `get_task` gives the task that this text stands for, also if its file was edited since it was loaded.

    Raises:
        UserError: there is no such task.
    """
    # A task of the package changes with the package, and what a run of it has done stays done.
    name = ALIASES.get(name, name)
    return "" if name in TASKS else TASKS.fingerprint(name)


def get_task(name: str) -> Task:
    """The task of this name, or at this place (a class derived from `Task`, or an object of one).

    Raises:
        UserError: there is no such task, or what is there is none.
    """
    from codeshell.evaluate.task import Task

    # A class or an object of one: the classes of the package, whatever a user's file defines.
    found = TASKS.get(ALIASES.get(name, name))
    task = found() if isinstance(found, type) and issubclass(found, Task) else found
    if not isinstance(task, Task):
        raise UserError(f"task {name}: not a task; derive its class from codeshell.evaluate.task.Task")
    # The name becomes a key of JSON, a file name and an id of the page.
    own = getattr(task, "name", "")
    if not _NAME.fullmatch(own):
        raise UserError(f"task {name}: give the class a `name` of letters, digits and _ - . + :")
    if own in RESERVED or own in ALIASES or (own in TASKS and type(task) is not TASKS.get(own)):
        raise UserError(f"task {name}: the name {own!r} is taken; give the class another `name`")
    # `Task` itself only declares them. A task that measures in its own way needs no problems.
    if type(task).measure is Task.measure and type(task).problems is Task.problems:
        raise UserError(f"task {name}: its class has no problems(); write it, or measure() in place of all")
    return task
