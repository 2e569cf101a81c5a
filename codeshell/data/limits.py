"""The package's rules on scores: `limits.toml`, one table a rule, with limits by language and where they come from.

The initial rules, which need no scorer, are in `rules`. These are asked by the select stage, if the recipe says so and
a scorer writes their column.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from codeshell.documents import languages

Drops = Literal["above", "below", "at_most", "at_least"]

OFF = math.nan
"""The limit of a rule that is switched off: no comparison with it is true."""

_COMPARE: dict[str, Any] = {
    "above": np.greater,
    "below": np.less,
    "at_most": np.less_equal,
    "at_least": np.greater_equal,
}


@dataclass(frozen=True)
class Limit:
    """A comparison of one column with a limit, by language. What it compares with NaN, or by a limit of NaN, stays."""

    name: str
    column: str
    drops: Drops
    everywhere: float = OFF
    """The limit of each language that has no other; NaN: only those of `by_language` have one."""
    by_language: Mapping[str, float] | None = None
    source: str = ""
    """Where the numbers come from."""

    def of(self, language: str) -> float:
        """The limit of a language."""
        return (self.by_language or {}).get(language, self.everywhere)

    def broken(self, values: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of (n,) values the (n,) limits drop."""
        with np.errstate(invalid="ignore"):
            mask: NDArray[np.bool_] = _COMPARE[self.drops](values, limits)
        return mask


@cache
def package_limits() -> tuple[Limit, ...]:
    """The rules of `limits.toml`, in its order."""
    tree = tomllib.loads(resources.files(__package__).joinpath("limits.toml").read_text(encoding="utf-8"))
    return tuple(parsed(name, entry) for name, entry in tree.items())


def parsed(name: str, entry: Mapping[str, Any]) -> Limit:
    """A rule of its table in TOML. What is wrong with the table is a `ValueError`: it is ours, not a user's."""
    unknown = entry.keys() - {"column", "drops", "limit", "source", "languages"}
    if unknown or not entry.keys() >= {"column", "drops", "source"}:
        raise ValueError(f"{name}: has column, drops, limit, source and languages; not {sorted(unknown)}")
    if entry["drops"] not in get_args(Drops):
        raise ValueError(f"{name}: drops {entry['drops']!r}; {get_args(Drops)} are known")
    by_language = {}
    for language, limit in entry.get("languages", {}).items():
        if language not in languages.names():
            raise ValueError(f"{name}: no language {language!r}; {languages.closest(language)}")
        by_language[language] = number(limit)
    return Limit(name, entry["column"], entry["drops"], number(entry.get("limit", "off")), by_language, entry["source"])


def number(limit: float | str) -> float:
    """A limit as it is written: a number, or "off"."""
    return OFF if limit == "off" else float(limit)
