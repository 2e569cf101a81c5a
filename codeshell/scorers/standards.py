"""The scorer `standards`: how well a text keeps to the coding standards of its language, from 0 to 1.

Thirteen checks read the columns of the scorer `lexical`; each gives a column, and `standards` is their weighted mean.
What a language asks for is in `standards.toml`, with its source. With `ruff = true`, Python is also given to ruff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.errors import UserError
from codeshell.scorers import lexis, ruff

Values = dict[str, NDArray[np.float64]]
"""Columns of `lexical` by name, null as NaN."""


class Asked(NamedTuple):
    """What the style guides of each document's language ask for, (documents,) each; see `lexis.Conventions`."""

    indent: NDArray[np.bool_]
    tabs: NDArray[np.bool_]
    unit: NDArray[np.float64]
    """Blanks of one step; NaN where there is no such number."""
    snake: NDArray[np.bool_]
    camel: NDArray[np.bool_]
    spacing: NDArray[np.bool_]


def _asked(languages: pa.ChunkedArray) -> Asked:
    coded = languages.combine_chunks().dictionary_encode()
    # A document without a language is asked for what a file of none is.
    each = [lexis.conventions(name or "") for name in [*coded.dictionary.to_pylist(), ""]]
    which = coded.indices.fill_null(len(each) - 1).to_numpy()
    return Asked(
        np.array([one.indent != "" for one in each])[which],
        np.array([one.indent == "tabs" for one in each])[which],
        np.array([float(one.indent) if one.indent.isdigit() else np.nan for one in each])[which],
        np.array([one.names == "snake" for one in each])[which],
        np.array([one.names == "camel" for one in each])[which],
        np.array([one.spacing for one in each])[which],
    )


class Check(NamedTuple):
    """One standard: 1 where it is kept, 0 at the limit from which on nothing is better or worse, linear between."""

    name: str
    weight: float
    columns: tuple[str, ...]
    score: Callable[[Values, Asked], NDArray[np.float64]]


def _falling(column: str, zero_at: float) -> Callable[[Values, Asked], NDArray[np.float64]]:
    """1 at 0, and 0 from `zero_at` on."""
    return lambda values, _: 1.0 - np.minimum(values[column] / zero_at, 1.0)


def _indentation(values: Values, asked: Asked) -> NDArray[np.float64]:
    """Lines at a multiple of the unit, less those whose indentation is of the rarer kind; half of it is lost where the
    unit is not the language's."""
    steady = values["indent_steady"] * (1.0 - values["indent_mixed"])
    uses_tabs, unit = values["indent_tabs"] > 0.5, values["indent_unit"]
    other_kind = asked.indent & (uses_tabs != asked.tabs)
    other_unit = ~np.isnan(asked.unit) & (np.fmod(unit, asked.unit) != 0)
    return np.where((uses_tabs | (unit > 0)) & (other_kind | other_unit), 0.5 * steady, steady)


def _naming(values: Values, asked: Asked) -> NDArray[np.float64]:
    """The share of names of two words that have the language's form; null where there are none, or no form."""
    snake, camel = values["name_snake"], values["name_camel"]
    form = np.where(asked.snake, snake, np.where(asked.camel, camel, np.nan))
    share = np.full(len(form), np.nan)
    np.divide(form, snake + camel, out=share, where=snake + camel > 0)
    return share


def _comments(values: Values, _: Asked) -> NDArray[np.float64]:
    """Full marks from one line of comment in ten on; null below ten lines of code, which need none."""
    score = np.minimum(values["comment_line_share"] / 0.1, 1.0)
    return np.where(values["code_lines"] >= 10, score, np.nan)


def _halving(column: str) -> Callable[[Values, Asked], NDArray[np.float64]]:
    """1 for none, and half of it less for each."""
    return lambda values, _: np.exp2(-values[column])


def _spacing(values: Values, asked: Asked) -> NDArray[np.float64]:
    """The mean of spaced commas and, where the language asks for it, of spaced assignments."""
    commas, assignments = values["spaced_commas"], np.where(asked.spacing, values["spaced_assignments"], np.nan)
    one = np.where(np.isnan(commas), assignments, commas)
    return np.where(np.isnan(commas) | np.isnan(assignments), one, (commas + assignments) / 2)


CHECKS = (
    Check("std_line_length", 1.0, ("long_lines",), _falling("long_lines", 0.1)),
    Check("std_indentation", 1.0, ("indent_steady", "indent_mixed", "indent_tabs", "indent_unit"), _indentation),
    Check("std_trailing_blanks", 0.5, ("trailing_blanks",), _falling("trailing_blanks", 0.1)),
    Check("std_final_newline", 0.5, ("final_newline",), lambda values, _: values["final_newline"]),
    Check("std_naming", 1.0, ("name_snake", "name_camel"), _naming),
    Check("std_comments", 1.0, ("comment_line_share", "code_lines"), _comments),
    Check("std_dead_code", 1.0, ("commented_code",), _falling("commented_code", 0.25)),
    Check("std_magic_numbers", 0.5, ("magic_numbers",), _falling("magic_numbers", 0.5)),
    Check("std_errors", 1.0, ("bare_catches",), _halving("bare_catches")),
    Check("std_calls", 1.0, ("risky_calls",), _halving("risky_calls")),
    Check("std_prints", 1.0, ("prints",), _falling("prints", 0.1)),
    Check("std_spacing", 1.0, ("spaced_commas", "spaced_assignments"), _spacing),
    Check("std_todos", 0.5, ("todos",), _falling("todos", 0.02)),
)
"""The checks in their order. A share of zero from which nothing gets worse is one in ten of the lines where a formatter
would have made it none; the weights halve what a formatter or an editor repairs in no time, and what is a matter of
taste. docs/quality.md has the table."""

_NEEDS = tuple(dict.fromkeys(column for check in CHECKS for column in check.columns))


class Standards:
    """The columns `standards` and one for each of `CHECKS`; see `codeshell.scorers.Scorer`.

    A check is null where it does not apply; `standards` is the mean of the others.

    Args:
        ruff: also run ruff on Python, and give its findings per 100 lines of code in `ruff_findings`.

    Raises:
        UserError: `ruff` without the program.
    """

    needs = _NEEDS
    version: int | str
    columns: pa.Schema

    def __init__(self, ruff: bool = False) -> None:
        if not isinstance(ruff, bool):
            raise UserError(f"ruff: {ruff!r} is not true or false")
        names = ["standards", *(check.name for check in CHECKS)]
        self.columns = pa.schema([(name, pa.float64()) for name in names])
        self.version = 1
        self._ruff = _Ruff() if ruff else None
        if self._ruff:
            self.columns = self.columns.append(pa.field("ruff_findings", pa.float64()))
            # Another ruff finds other things.
            self.version = f"1 ruff {self._ruff.version}"

    def score(self, batch: pa.Table) -> dict[str, Any]:
        """The columns of a batch, from columns of `lexical`, and from `text` for ruff."""
        values: Values = {}
        for name in _NEEDS:
            column = batch[name].combine_chunks().cast(pa.float64())
            values[name] = column.fill_null(np.nan).to_numpy(zero_copy_only=False).copy()
        asked = _asked(batch["language"])
        # Summed check by check, so that a document's mean does not depend on the batch that it is in. Some checks
        # always apply, so the weights are never 0.
        total, weights = np.zeros(batch.num_rows), np.zeros(batch.num_rows)
        checks: dict[str, Any] = {}
        for check in CHECKS:
            score = check.score(values, asked)
            applies = ~np.isnan(score)
            total += np.where(applies, check.weight * score, 0.0)
            weights += np.where(applies, check.weight, 0.0)
            checks[check.name] = pa.array(score, pa.float64(), from_pandas=True)
        result: dict[str, Any] = {"standards": total / weights, **checks}
        if self._ruff:
            result["ruff_findings"] = self._ruff.findings(batch, values["code_lines"])
        return result


class _Ruff:
    """ruff over the Python of a batch."""

    def __init__(self) -> None:
        self.program, self.version = ruff.find()

    def findings(self, batch: pa.Table, code_lines: NDArray[np.float64]) -> pa.Array:
        """Findings per 100 lines of code; null for other languages and files without code."""
        rows = [i for i, name in enumerate(batch["language"].to_pylist()) if name == "python" and code_lines[i] > 0]
        texts = batch["text"].combine_chunks().take(pa.array(rows, pa.int64())).to_pylist()
        found: list[float | None] = [None] * batch.num_rows
        for row, count in zip(rows, ruff.count(self.program, texts), strict=True):
            found[row] = 100.0 * count / float(code_lines[row])
        return pa.array(found, pa.float64())
