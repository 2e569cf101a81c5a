"""Registries: the names of an extension point, each with the place of its object, which is loaded at its first use.

Scorers, tasks, rules and operations each have one. What the package brings is a line of a table. What a user brings is
named by its place, `FILE.py:NAME` or `package.module:NAME`, wherever a name is accepted: in a recipe or on a command
line. A place is a string, so it reaches the worker processes of any engine, and each of them loads the object itself.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from codeshell.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """The objects of one extension point, by name or by place.

    Args:
        what: what one of them is called in messages, for example "scorer".
        table: name to place (`package.module:NAME`) of what the package brings, in the order in which it is listed.
    """

    def __init__(self, what: str, table: Mapping[str, str]) -> None:
        self.what = what
        self._table = dict(table)
        self._loaded: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def get(self, name: str) -> T:
        """The object of this name, or at this place.

        Raises:
            UserError: no such name, no such file or module, or no such object in it.
        """
        # By the whole path: another working directory makes another file of the same relative place.
        place = absolute(self._table.get(name, name))
        if place not in self._loaded:
            # Without a colon it can only be meant as a name.
            if name not in self._table and ":" not in name:
                near = difflib.get_close_matches(name, list(self._table), 1)
                hint = f"did you mean {near[0]}" if near else f"is it one of {', '.join(self._table)}"
                hint = f"{hint}? Name" if self._table else "name"
                raise UserError(f"{self.what} {name!r}: unknown; {hint} one of your own by its place, FILE.py:NAME")
            self._loaded[place] = load(self._table.get(name, name), self.what)
        return self._loaded[place]

    def fingerprint(self, name: str) -> str:
        """A text that changes with the code of this name or place: its `version`, and the hash of a FILE.py.

        Raises:
            UserError: as `get`.
        """
        # The file may have been edited since this process loaded it: from here on `get` gives the code of this text.
        place = self._table.get(name, name)
        self._loaded.pop(absolute(place), None)
        version = str(getattr(self.get(name), "version", ""))
        where = place.rpartition(":")[0]
        if not where.endswith(".py"):
            return version
        # Nobody raises a version for each edit while a rule is being written, and an edit must not go unnoticed.
        return f"{version}+{hashlib.sha256(Path(where).read_bytes()).hexdigest()[:16]}"


def absolute(place: str) -> str:
    """The place with a full path, for workers whose working directory may be another one."""
    where, colon, attribute = place.rpartition(":")
    return f"{Path(where).resolve()}{colon}{attribute}" if where.endswith(".py") else place


def load(place: str, what: str = "object") -> Any:
    """The object at `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        UserError: the file or module is not there or is no Python, or has no such object. What it raises itself comes
            as it is: the traceback shows its author the line.
    """
    # The last colon: a path may have others.
    where, _, attribute = place.rpartition(":")
    try:
        module = _load_file(where) if where.endswith(".py") else importlib.import_module(where)
    except (ImportError, OSError, SyntaxError) as error:
        raise UserError(f"{what} {place}: {where!r} cannot be loaded ({error}); name FILE.py:NAME") from None
    if not hasattr(module, attribute):
        raise UserError(f"{what} {place}: {where} has no {attribute!r}; name what is defined there")
    return getattr(module, attribute)


def _load_file(path: str) -> ModuleType:
    """Run a Python file once per process, as a module whose name no other file has; an edited file is another one."""
    # Two files of the same name in different folders are two modules; the number tells them apart.
    full = Path(path).resolve()
    code = full.read_bytes()
    name = f"codeshell_user_{full.stem}_{zlib.crc32(os.fsencode(full) + code):08x}"
    if name in sys.modules:
        return sys.modules[name]
    # Not through importlib: its bytecode files are told from the source by the second and the size alone.
    module = ModuleType(name)
    module.__file__ = str(full)
    # Before it runs, because dataclasses look up their module while they are being defined.
    sys.modules[name] = module
    try:
        exec(compile(code, str(full), "exec", dont_inherit=True), module.__dict__)
    # Half a module must not be found by the next attempt.
    except BaseException:
        del sys.modules[name]
        raise
    return module
