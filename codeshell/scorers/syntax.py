"""Metrics of the syntax tree: complexity, size and shape of functions, names, errors (docs/quality.md).

The texts are parsed and walked in C++ (csrc/syntax); the grammars are packages of tree-sitter. A document without a
grammar, or beyond the limits on size and effort, has no such measures: its columns are null, and the scorer counts it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.documents.texts import large_strings
from codeshell.errors import UserError
from codeshell.scorers import grammars

MAX_BYTES = 1 << 20
"""Larger files are data or generated nearly always, and the parser's memory is about 100 times a text."""

_INTEGER = (
    "functions",
    "types",
    "cyclomatic_max",
    "cyclomatic_sum",
    "cognitive_max",
    "cognitive_sum",
    "nesting_max",
    "statements",
    "declarations",
    "imports",
    "function_lines_max",
    "parameters_max",
    "empty_catches",
    "magic_constants",
)
"""Columns that are the counts of C++ as they are."""

SYNTAX = pa.schema(
    [
        ("syntax_errors", pa.float64()),
        ("syntax_error_nodes", pa.int64()),
        ("functions", pa.int64()),
        ("types", pa.int64()),
        ("cyclomatic_max", pa.int64()),
        ("cyclomatic_mean", pa.float64()),
        ("cyclomatic_sum", pa.int64()),
        ("cognitive_max", pa.int64()),
        ("cognitive_sum", pa.int64()),
        ("nesting_max", pa.int64()),
        ("halstead_volume", pa.float64()),
        ("halstead_difficulty", pa.float64()),
        ("statements", pa.int64()),
        ("declarations", pa.int64()),
        ("imports", pa.int64()),
        ("decisions_per_line", pa.float64()),
        ("documented_functions", pa.float64()),
        ("function_lines_max", pa.int64()),
        ("parameters_max", pa.int64()),
        ("names_in_convention", pa.float64()),
        ("names_snake", pa.float64()),
        ("names_camel", pa.float64()),
        ("names_pascal", pa.float64()),
        ("names_upper", pa.float64()),
        ("names_one_letter", pa.float64()),
        ("empty_catches", pa.int64()),
        ("magic_constants", pa.int64()),
    ]
)
"""`syntax_errors`: share of the bytes of tokens that no rule of the grammar takes. `cyclomatic_*`: McCabe's complexity
by function, `cognitive_*`: SonarSource's by outermost function. `halstead_*`: of the whole file. `decisions_per_line`:
over the lines that are not blank. `documented_functions`: share of the functions with a docstring or a comment right
before them. `names_*`: shares of the names that functions, types, variables and parameters are given. Null: a share of
nothing, and everything but the errors in a language of data (HTML, JSON)."""


class Syntax:
    """The columns of `SYNTAX` as a scorer."""

    version = 1
    columns = SYNTAX
    absent: ClassVar = {"syntax_errors": "no grammar of the language here (see codeshell info), too long or too nested"}

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """Args:
            max_bytes: longer texts are not measured; 1 to 2**30.

        Raises:
            UserError: a limit out of range, or a build without tree-sitter.
        """
        if not isinstance(max_bytes, int) or not 1 <= max_bytes <= 1 << 30:
            raise UserError(f"score.settings of syntax: max_bytes = {max_bytes!r} must be from 1 to {1 << 30}")
        grammars.need_build()
        self.max_bytes = max_bytes
        # How many documents were measured, and how many not for each reason.
        self.counts = {"measured": 0, "no grammar": 0, "too long": 0, "too much effort": 0}
        self.missing: set[str] = set()
        """Languages of the table whose grammar is not installed."""

    def score(self, batch: pa.Table) -> dict[str, pa.Array]:
        """See `codeshell.scorers.Scorer`."""
        texts = large_strings(_one(batch["text"]))
        languages, paths = batch["language"].to_pylist(), batch["path"].to_pylist()
        # Rows by what measures them: each grammar's tables stay in the cache.
        groups: dict[tuple[str, str], list[int]] = {}
        known = grammars.entries()
        for row, (language, path) in enumerate(zip(languages, paths, strict=True)):
            entry = known.get(language)
            if entry is None:
                self.counts["no grammar"] += 1
                continue
            suffix = next((end for end in entry.suffixes if path.endswith(end)), "")
            groups.setdefault((language, suffix), []).append(row)
        columns: dict[str, list[Any]] = {name: [None] * batch.num_rows for name in SYNTAX.names}
        for (language, suffix), rows in groups.items():
            try:
                measurer = grammars.make(language, suffix)
            except ModuleNotFoundError:
                self.missing.add(language)
                self.counts["no grammar"] += len(rows)
                continue
            for name, values in self._measure(measurer, texts, rows, known[language].has_functions).items():
                column = columns[name]
                for row, value in zip(rows, values, strict=True):
                    column[row] = value
        return {field.name: pa.array(columns[field.name], field.type) for field in SYNTAX}

    def _measure(self, measurer: Any, texts: pa.Array, rows: list[int], functions: bool) -> dict[str, list[Any]]:
        """The columns of these rows as lists."""
        taken = texts if len(rows) == len(texts) else texts.take(pa.array(rows, pa.int64()))
        # An array that was made by take begins at the start of its buffers; others may be slices.
        _, offsets, data = taken.buffers()
        view = np.frombuffer(offsets, np.int64)[taken.offset : taken.offset + len(taken) + 1]
        lengths = np.diff(view)
        bytes_of_texts = b"" if data is None else memoryview(data)
        counts = measurer.measure(bytes_of_texts, view, self.max_bytes)
        measured = counts["measured"]
        self.counts["measured"] += int(measured.sum())
        self.counts["too long"] += int((lengths > self.max_bytes).sum())
        self.counts["too much effort"] += int((~measured & (lengths <= self.max_bytes)).sum())
        columns = {
            # A text without a token has no error.
            "syntax_errors": _share(counts["error_bytes"], counts["tokens_bytes"], empty=0.0),
            "syntax_error_nodes": counts["error_nodes"].astype(object),
        }
        if functions:
            columns |= {name: counts[name].astype(object) for name in _INTEGER}
            columns |= _ratios(counts)
        for values in columns.values():
            values[~measured] = None
        return {name: values.tolist() for name, values in columns.items()}


def _ratios(counts: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns that are computed from several counts, as objects with None for null."""
    # Halstead: N operators and operands, n distinct ones.
    total = counts["operators"] + counts["operands"]
    distinct = counts["distinct_operators"] + counts["distinct_operands"]
    volume = total * np.log2(np.maximum(distinct, 1))
    difficulty = counts["distinct_operators"] / 2 * (counts["operands"] / np.maximum(counts["distinct_operands"], 1))
    names = {
        f"names_{style}": _share(counts[f"names_{style}"], counts["names"])
        for style in ("snake", "camel", "pascal", "upper", "one_letter")
    }
    return {
        "cyclomatic_mean": _share(counts["cyclomatic_sum"], counts["functions"]),
        "halstead_volume": volume.astype(object),
        "halstead_difficulty": difficulty.astype(object),
        "decisions_per_line": _share(counts["decisions"], counts["code_lines"], empty=0.0),
        "documented_functions": _share(counts["documented"], counts["functions"]),
        "names_in_convention": _share(counts["names_in_convention"], counts["names_judged"]),
        **names,
    }


def _share(part: NDArray[np.int64], whole: NDArray[np.int64], empty: float | None = None) -> NDArray[Any]:
    """part / whole as objects; `empty` where the whole is 0."""
    shares: NDArray[Any] = (part / np.maximum(whole, 1)).astype(object)
    shares[whole == 0] = empty
    return shares


def _one(column: pa.ChunkedArray) -> pa.Array:
    """A column's values as one array, without a copy where it is one already."""
    chunks = column.chunks
    if not chunks:
        return pa.array([], pa.large_string())
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
