"""The evaluation tasks of the package, one file each; `codeshell.evaluate.task` says what a task is.

To add one, write its file here and its line in `TASKS`, or in `FUNCTIONAL` or `FAMILIES` if its answers are programs
that are run. A task outside the package is named by `FILE.py:NAME` or `package.module:NAME` wherever a name is taken.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from codeshell.errors import UserError
from codeshell.evaluate import problem_sets
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

FUNCTIONAL: Registry[Any] = Registry(
    "task",
    {
        "simple": "codeshell.evaluate.tasks.simple:Simple",
        "humaneval": "codeshell.evaluate.tasks.humaneval:HumanEval",
        "humaneval+": "codeshell.evaluate.tasks.humaneval_plus:HumanEvalPlus",
        "mbpp": "codeshell.evaluate.tasks.mbpp:Mbpp",
    },
)
"""Tasks that run what the model writes, on problems of their own; an evaluation does those that it names."""

FAMILIES: Registry[Any] = Registry(
    "task",
    {
        "multipl-e": "codeshell.evaluate.tasks.multipl_e:MultiplE",
        "humaneval-x": "codeshell.evaluate.tasks.humaneval_x:HumanEvalX",
        "infill": "codeshell.evaluate.tasks.single_line:SingleLine",
        "humaneval-infilling": "codeshell.evaluate.tasks.humaneval_infilling:HumanEvalInfilling",
    },
)
"""Functional tasks with an argument, as in `multipl-e:lua`. `infill` alone is the task on held-out documents."""

ALIASES = {"bpb": "bits_per_byte"}
"""Short names on the command line."""

RESERVED = ("all", "claims", "failure", "generate", "held_out", "judge", "not_run", "sections")
"""Names that mean something else on the command line or in `stats.json`."""

_NAME = re.compile(r"[A-Za-z0-9][\w.+:-]*", re.ASCII)


def family_names() -> dict[str, str]:
    """Each family with its arguments, for people: `{"infill": "java, js, python", …}`."""
    return {
        family: ", ".join(name.partition(":")[2] for name in problem_sets.SETS if name.startswith(f"{family}:"))
        for family in FAMILIES
    }


def in_package(name: str) -> bool:
    """Whether a name is that of a task of the package, with its argument if it has one."""
    name = ALIASES.get(name, name)
    return name in TASKS or name in FUNCTIONAL or name.partition(":")[0] in FAMILIES


def code_of(name: str) -> str:
    """A text that changes with the code of a task outside the package; empty for those of the package.

    From here on `get_task` gives the task that this text stands for, also if its file was edited since it was loaded.

    Raises:
        UserError: there is no such task.
    """
    # A task of the package changes with the package, and what a run of it has done stays done.
    return "" if in_package(name) else TASKS.fingerprint(name)


def _find(name: str) -> Any:
    """The class, object or task of a name.

    Raises:
        UserError: there is none; the message names the known ones.
    """
    name = ALIASES.get(name, name)
    family, colon, argument = name.partition(":")
    if name in TASKS:
        return TASKS.get(name)
    if name in FUNCTIONAL:
        return FUNCTIONAL.get(name)
    if family in FAMILIES:
        if not argument:
            raise UserError(f"task {name}: write {family}: and one of {family_names()[family]}")
        return FAMILIES.get(family)(argument)
    # A word alone, or with something that is no place of an object: nothing can be loaded.
    near = difflib.get_close_matches(family, FAMILIES, 1) if colon else []
    if near and "." not in family:
        raise UserError(f"task {name}: unknown; did you mean {near[0]}:{argument}?")
    if not colon:
        known = [*TASKS, *FUNCTIONAL, *(f"{family}:…" for family in FAMILIES)]
        near = difflib.get_close_matches(name, [*TASKS, *FUNCTIONAL, *FAMILIES], 1)
        hint = f"did you mean {near[0]}" if near else f"is it one of {', '.join(known)}"
        raise UserError(f"task {name!r}: unknown; {hint}? Name one of your own by its place, FILE.py:NAME")
    return TASKS.get(name)


def get_task(name: str) -> Task:
    """The task of this name, or at this place (a class derived from `Task`, or an object of one).

    Raises:
        UserError: there is no such task, or what is there is none.
    """
    from codeshell.evaluate.task import Task

    # A class or an object of one: the classes of the package, whatever a user's file defines.
    found = _find(name)
    task = found() if isinstance(found, type) and issubclass(found, Task) else found
    if not isinstance(task, Task):
        raise UserError(f"task {name}: not a task; derive its class from codeshell.evaluate.task.Task")
    if in_package(name):
        return task
    # The name becomes a key of JSON, a file name and an id of the page.
    own = getattr(task, "name", "")
    if not _NAME.fullmatch(own):
        raise UserError(f"task {name}: give the class a `name` of letters, digits and _ - . + :")
    taken = in_package(own) and (own not in TASKS or type(task) is not TASKS.get(own))
    if own in RESERVED or taken:
        raise UserError(f"task {name}: the name {own!r} is taken; give the class another `name`")
    # `Task` itself only declares them. A task that measures in its own way needs no problems.
    if type(task).measure is Task.measure and type(task).problems is Task.problems:
        raise UserError(f"task {name}: its class has no problems(); write it, or measure() in place of all")
    return task
