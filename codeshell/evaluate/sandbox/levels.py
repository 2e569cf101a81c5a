"""Levels of isolation: which one this machine gives, proven by a program that tries to break out.

`require` is the door: nothing that a model wrote runs before it has returned a `Proof`. What the kernel's files say
about namespaces is not believed; a sandbox is started, and the program inside attacks it.
"""

from __future__ import annotations

import functools
import threading

from codeshell.errors import UserError
from codeshell.evaluate.sandbox.isolation import NAMES, Level, Proof, describe

__all__ = ["NAMES", "Level", "Proof", "best", "describe", "prove", "require"]


_LOCK = threading.Lock()
_PROVEN: dict[Level, Proof | UserError] = {}


def prove(level: Level) -> Proof:
    """Try the level out, once for each process.

    Raises:
        UserError: the machine does not give it; the line says why and what to do.
    """
    from codeshell.evaluate.sandbox import probe

    level = Level(level)
    with _LOCK:
        if level not in _PROVEN:
            try:
                _PROVEN[level] = probe.try_out(level)
            except UserError as error:
                _PROVEN[level] = error
        found = _PROVEN[level]
    if isinstance(found, UserError):
        raise UserError(str(found))
    return found


def require(level: int | None = None, unsafe: bool = False) -> Proof:
    """The best level of this machine, or the one asked for, proven by trying to break out of it (once per process).

    Args:
        level: 1 to 4; None is the best. A machine that gives more is used at the level asked for.
        unsafe: allow level 1, which keeps nothing apart: as the level asked for, or where nothing else can be had.

    Raises:
        UserError: no isolation, or less than asked for. It names the cause and the remedy.
    """
    if level is not None:
        if level not in list(Level):
            raise UserError(f"level {level}: must be 1 to 4: {', '.join(f'{k.value} {v}' for k, v in NAMES.items())}")
        if level == Level.LIMITS and not unsafe:
            raise UserError("level 1 keeps nothing apart; say --unsafe if you trust every program that will run")
        return prove(Level(level))
    refusals: list[str] = []
    for candidate in (Level.NAMESPACES_CGROUP, Level.NAMESPACES, Level.LANDLOCK):
        try:
            return prove(candidate)
        except UserError as error:
            refusals.append(str(error))
    if unsafe:
        return prove(Level.LIMITS)
    raise UserError(f"no isolation on this machine, so no program is run. {refusals[1]}. {refusals[2]}")


@functools.cache
def best() -> Proof | UserError:
    """What `require()` gives, or its error: for `codeshell info` and tests."""
    try:
        return require()
    except UserError as error:
        return error
