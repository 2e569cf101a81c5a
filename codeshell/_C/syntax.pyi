"""Metrics of syntax trees: csrc/syntax. Everything but `built` is missing in a build without tree-sitter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

built: bool
versions: tuple[int, int]
"""The first and the last version of grammars that this build reads."""

class Language:
    """A grammar with its table. One text at a time: calls from several threads wait for each other."""

    def __init__(self, language: object, kinds: Mapping[str, Sequence[int]], conventions: Mapping[str, int]) -> None:
        """`language`: what a grammar's package gives (a capsule or an address). `kinds`: the symbols under each word of
        csrc/syntax/kinds.h. `conventions`: bits of styles (csrc/syntax/names.h) by role. ValueError for a version of
        grammars that this build does not read."""

    @staticmethod
    def symbols(language: object) -> list[tuple[str, bool]]:
        """(name, named) of each symbol by its number; an empty name for what no tree shows."""

    def measure(
        self, data: bytes | memoryview, offsets: NDArray[np.int64], bytes: int, effort: float = 1.0
    ) -> dict[str, NDArray[Any]]:
        """Counts of every text data[offsets[i]:offsets[i + 1]] as int64 arrays by name; `measured` bool is false for a
        text of more than `bytes`, or of more than `effort` times the usual budget of steps and memory, which are
        counted and not timed; its counts are 0."""

    def functions(self, text: bytes) -> list[dict[str, Any]]:
        """The functions with a body: name (bytes), start, end, line, lines, cyclomatic, cognitive, parameters,
        documented."""

    def parse_only(self, data: bytes | memoryview, offsets: NDArray[np.int64], effort: float = 1.0) -> int:
        """How many texts were parsed within the budget; nothing is measured. For benchmarks."""

    def nodes(self, text: bytes) -> dict[str, NDArray[np.int64]]:
        """The visible nodes in preorder: symbol, start, end, next (the first node not below), flags (1 error, 2
        missing, 4 extra)."""
