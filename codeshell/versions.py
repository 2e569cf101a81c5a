"""The versions of other libraries that codeshell supports, and the error where another one is installed.

`tools/versions.py` runs tests with the oldest and the newest of them; `codeshell info` prints what is installed.
"""

from __future__ import annotations

import contextlib
import re
from typing import NamedTuple


class Range(NamedTuple):
    """The supported versions of a library, each without its last part: "5.24" stands for 5.24.0, 5.24.1, …

    Attributes:
        oldest: the first version that works.
        tested: the newest version that the tests have seen.
        below: the first version that is refused; empty where none is.
    """

    oldest: str
    tested: str
    below: str = ""

    def __str__(self) -> str:
        return f"{self.oldest} or newer" + (f", below {self.below}" if self.below else "")


RANGES = {
    "torch": Range("2.9", "2.13"),
    "transformers": Range("5.0", "5.24", below="6"),
    "numpy": Range("1.26", "2.4"),
    "pandas": Range("2.0", "3.1"),
    "pyarrow": Range("16.0", "26.0"),
}


def require(name: str, found: str) -> None:
    """Check the version of a library that was just imported.

    Raises:
        ImportError: the version is outside the range; the message names both, and what to install.
    """
    allowed = RANGES[name]
    if _number(found) < _number(allowed.oldest) or (allowed.below and _number(found) >= _number(allowed.below)):
        wanted = f"{name}>={allowed.oldest}" + (f",<{allowed.below}" if allowed.below else "")
        raise ImportError(
            f"codeshell needs {name} {allowed}, and {name} {found} is installed: pip install '{wanted}'", name=name
        )


def newer_than_tested(name: str, found: str) -> bool:
    """Whether a version is newer than every version that the tests have seen; its last part does not count."""
    return _number(found)[:2] > _number(RANGES[name].tested)


def installed() -> dict[str, dict[str, object]]:
    """For each library of `RANGES`: its version (None if it is not installed), the range, and whether it is inside."""
    import importlib.metadata as metadata

    facts: dict[str, dict[str, object]] = {}
    for name, allowed in RANGES.items():
        found = None
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.version(name)
        inside = None
        if found is not None:
            try:
                require(name, found)
                inside = True
            except ImportError:
                inside = False
        newer = found is not None and newer_than_tested(name, found)
        facts[name] = {
            "version": found,
            "range": str(allowed),
            "tested": allowed.tested,
            "in_range": inside,
            "newer_than_tested": newer,
        }
    return facts


def _number(version: str) -> tuple[int, ...]:
    """The release of a version as numbers: (2, 13, 0) for "2.13.0+cpu"."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()
