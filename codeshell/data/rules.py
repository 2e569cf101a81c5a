"""The initial rules: StarCoder's, with one table of thresholds a language.

A rule compares one column of the scores with one threshold. `decide` gives, for every document, the first rule that
it breaks. The limits follow BigCode's inspection of 300 file types for StarCoder (one row a language here, where
theirs has one a suffix) and the StarCoder papers; the recipe's `[rules.overrides]` goes on top.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.documents import languages
from codeshell.errors import UserError
from codeshell.recipe import Rules


class Rule(NamedTuple):
    """Drops a document whose `column` is `drops` the threshold of the rule's name."""

    name: str
    """Also the threshold's name in the table and in the recipe."""
    column: str
    drops: Literal["above", "below", "at_most", "at_least"]


RULES = (
    Rule("max_line_length", "max_line_length", "above"),
    Rule("mean_line_length", "mean_line_length", "above"),
    Rule("min_alphanumeric", "alphanumeric", "below"),
    Rule("min_alphabetic", "alphabetic", "below"),
    Rule("xml_header", "xml_header", "at_least"),
    Rule("html_text_share", "html_text_share", "at_most"),
    Rule("html_text_characters", "html_text_characters", "at_most"),
    Rule("min_characters", "characters", "below"),
    Rule("max_characters", "characters", "above"),
    Rule("generated", "generated", "at_least"),
)
"""In the order in which they are asked; the first one broken is the reason."""

Thresholds = dict[str, float]
"""By rule name. A threshold of 0 switches its rule off."""

DEFAULT: Thresholds = {
    "max_line_length": 1000,
    "mean_line_length": 100,
    "min_alphanumeric": 0.25,
    "min_alphabetic": 0,
    "xml_header": 1,
    "html_text_share": 0,
    "html_text_characters": 0,
    "min_characters": 0,
    "max_characters": 0,
    "generated": 1,
}

_ANY_LINE: Thresholds = {"max_line_length": 0, "mean_line_length": 0}
_SOME_LETTERS: Thresholds = {"min_alphabetic": 0.25}
_DATA: Thresholds = {"min_alphabetic": 0.5, "min_characters": 50, "max_characters": 5000}

EXCEPTIONS: dict[str, Thresholds] = {
    # Prose and tables: a paragraph or a row may be one line.
    "bluespec": _ANY_LINE,
    "cmake": _ANY_LINE,
    "markdown": _ANY_LINE,
    "r": _ANY_LINE,
    "restructuredtext": _ANY_LINE,
    "rmarkdown": _ANY_LINE,
    "sql": _ANY_LINE,
    "stata": _ANY_LINE,
    "tex": _ANY_LINE,
    "asciidoc": _ANY_LINE,
    "org": _ANY_LINE,
    # Where a share of letters is what tells code from data.
    "augeas": _SOME_LETTERS,
    "maple": _SOME_LETTERS,
    "mathematica": {**_SOME_LETTERS, "min_alphanumeric": 0},
    "matlab": {**_SOME_LETTERS, **_ANY_LINE},
    "scheme": _SOME_LETTERS,
    "systemverilog": _SOME_LETTERS,
    "vhdl": _SOME_LETTERS,
    "yacc": _SOME_LETTERS,
    # Data formats: configuration is short, and data has few letters.
    "json": {**_DATA, "max_line_length": 0, "mean_line_length": 0},
    "yaml": _DATA,
    # A page is kept for its text; a style sheet of XSLT is XML by nature.
    "html": {"html_text_share": 0.2, "html_text_characters": 100},
    "xslt": {"xml_header": 0},
}
"""Differences from `DEFAULT` by language."""

THRESHOLDS: dict[str, Thresholds] = {name: {**DEFAULT, **EXCEPTIONS.get(name, {})} for name in languages.names()}
"""The table: every threshold of every language."""


def thresholds(rules: Rules) -> dict[str, Thresholds]:
    """The table with the recipe's overrides on top; `"*"` is every language and yields to a language's own.

    Raises:
        UserError: an unknown language or threshold.
    """
    for language, values in rules.overrides.items():
        if language != "*" and language not in THRESHOLDS:
            raise UserError(f"rules.overrides: no language '{language}'; {languages.closest(language)}")
        for name in values:
            if name not in DEFAULT:
                raise UserError(f"rules.overrides.{language}: no threshold '{name}'; there are {', '.join(DEFAULT)}")
    everywhere = rules.overrides.get("*", {})
    return {
        language: {**values, **everywhere, **rules.overrides.get(language, {})}
        for language, values in THRESHOLDS.items()
    }


class Decision(NamedTuple):
    """What the rules say of a table of documents; arrays of its length."""

    rule: NDArray[np.int64]
    """Index in `RULES` of the first rule broken, -1 for none."""
    value: NDArray[np.float64]
    """The measured value; NaN where no rule is broken."""
    limit: NDArray[np.float64]
    """The threshold broken; NaN where no rule is."""


def decide(scores: pa.Table, table: dict[str, Thresholds]) -> Decision:
    """Apply the rules, in order, to every document.

    Args:
        scores: columns of `codeshell.scorers.text.SCORES`; those of the rules and `language` are used.
        table: of `thresholds`; has every language that is in `scores`.
    """
    count = scores.num_rows
    decision = Decision(np.full(count, -1), np.full(count, np.nan), np.full(count, np.nan))
    encoded = scores["language"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    for index, rule in enumerate(RULES):
        limits = np.array([table[name][rule.name] for name in names], dtype=np.float64)
        if not limits.any():
            continue
        limit, value = limits[codes], _values(scores[rule.column])
        with np.errstate(invalid="ignore"):  # NaN: the score is not there for this document, so nothing is broken
            broken = _COMPARE[rule.drops](value, limit) & (limit != 0) & (decision.rule < 0)
        decision.rule[broken] = index
        decision.value[broken] = value[broken]
        decision.limit[broken] = limit[broken]
    return decision


_COMPARE: dict[str, Any] = {
    "above": np.greater,
    "below": np.less,
    "at_most": np.less_equal,
    "at_least": np.greater_equal,
}


def _values(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A score as float64; a phrase counts as 1 and an empty one as 0, null is NaN."""
    if pa.types.is_string(column.type):
        column = pc.greater(pc.binary_length(column), 0)
    values: NDArray[np.float64] = pc.cast(column, pa.float64()).to_numpy()
    return values
