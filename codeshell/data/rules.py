"""Rules: which documents their scores drop, with one table of limits by language.

A rule reads columns and says, for every document, whether it goes, and by which value; it sees no text. `decide` gives
the first rule that each document breaks. The package's rules are StarCoder's: the limits follow BigCode's inspection of
300 file types (one row per language here, where theirs has one per suffix) and the StarCoder papers. The recipe's
`[rules.overrides]` goes on top, and `rules.own` names rules of one's own: anything with the members of `Rule`, for
example a `Threshold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.documents import languages
from codeshell.documents.shards import DOCUMENTS
from codeshell.errors import UserError
from codeshell.recipe import Rules
from codeshell.registry import Registry


class Rule(Protocol):
    """What a rule has."""

    @property
    def name(self) -> str:
        """The reason that a dropped document gets; also the threshold's name in the table and in the recipe."""
        ...

    @property
    def columns(self) -> Sequence[str]:
        """What `decide` reads: scores, or `repo`, `path`, `language` and `bytes` of the documents."""
        ...

    @property
    def limit(self) -> float:
        """The threshold of every language that has no other. A threshold of 0 switches the rule off."""
        ...

    def decide(self, columns: pa.Table, limit: NDArray[np.float64]) -> tuple[Any, Any]:
        """Which documents go.

        Args:
            columns: a row per document, with `columns` at least.
            limit: (rows,), the threshold of each document's language.

        Returns:
            Two sequences of that length: whether each document goes, and its value, which is recorded with the limit.
            `numbers` makes an array of a column.
        """
        ...


@dataclass(frozen=True)
class Threshold:
    """A rule that drops documents whose `column` is above (below, ...) the limit; one without the score stays."""

    name: str
    column: str
    drops: Literal["above", "below", "at_most", "at_least"]
    limit: float = 0.0

    @property
    def columns(self) -> tuple[str]:
        return (self.column,)

    def decide(self, columns: pa.Table, limit: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        value = numbers(columns[self.column])
        broken: NDArray[np.bool_] = _COMPARE[self.drops](value, limit)
        return broken, value


RULES = (
    Threshold("max_line_length", "max_line_length", "above", 1000),
    Threshold("mean_line_length", "mean_line_length", "above", 100),
    Threshold("min_alphanumeric", "alphanumeric", "below", 0.25),
    Threshold("min_alphabetic", "alphabetic", "below"),
    Threshold("xml_header", "xml_header", "at_least", 1),
    Threshold("html_text_share", "html_text_share", "at_most"),
    Threshold("html_text_characters", "html_text_characters", "at_most"),
    Threshold("min_characters", "characters", "below"),
    Threshold("max_characters", "characters", "above"),
    Threshold("generated", "generated", "at_least", 1),
)
"""The package's rules with the limits of most languages, in the order in which they are asked; the first one broken is
the reason."""

Thresholds = dict[str, float]
"""Limits by rule name. A threshold of 0 switches its rule off."""

DEFAULT: Thresholds = {rule.name: rule.limit for rule in RULES}

OWN: Registry[Any] = Registry("rule", {})
"""Rules of users, by place alone: the package's need no name, for all are asked."""

OTHER_REASONS = ("language_floor", "languages", "exact_duplicate")
"""Reasons of the filter stage that are no rules."""

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


def own_rules(places: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of `rules.own`: instances, or classes that need no arguments.

    Raises:
        UserError: no such file or object, no rule, or a name that another rule has.
    """
    # A drop is recorded by the rule's name alone, so no two may share one.
    rules: list[Rule] = []
    taken = {*DEFAULT, *OTHER_REASONS}
    for place in places:
        found = OWN.get(place)
        # A class is made without arguments; a `Threshold`, say, is a rule already.
        rule = found() if isinstance(found, type) else found
        for member in ("name", "columns", "limit", "decide"):
            if not hasattr(rule, member):
                raise UserError(f"rule {place}: has no {member!r}; see codeshell.data.rules.Rule")
        if rule.name in taken:
            raise UserError(f"rule {place}: the name {rule.name!r} is taken; choose another")
        taken.add(rule.name)
        rules.append(rule)
    return tuple(rules)


BEFORE_SCORES = "a rule that reads a scorer's column belongs in select.own, and one of rules.own reads"
AFTER_SCORES = "name the scorer that writes it in score.scorers, or read one of"


def check_columns(rules: Sequence[Rule], there: Sequence[str], remedy: str = BEFORE_SCORES) -> None:
    """Raise a `UserError` if a rule reads a column that is neither in `there` nor a document's own."""
    # The text is left out: a rule that read it would need the documents again, which decisions do without.
    known = {*there, *DOCUMENTS.names} - {"text"}
    for rule in rules:
        for column in rule.columns:
            if column not in known:
                raise UserError(f"rule {rule.name}: no column {column!r}; {remedy} {', '.join(sorted(known))}")


def thresholds(rules: Rules, own: Sequence[Rule] = ()) -> dict[str, Thresholds]:
    """The table with the recipe's overrides on top; `"*"` is every language and yields to a language's own.

    Args:
        rules: the recipe's section.
        own: its own rules, which have a limit in every row.

    Raises:
        UserError: an unknown language or threshold, or a rule of one's own that would be off everywhere.
    """
    names = [*DEFAULT, *(rule.name for rule in own)]
    # A misspelt name would otherwise change nothing, without a word.
    for language, values in rules.overrides.items():
        if language != "*" and language not in THRESHOLDS:
            raise UserError(f"rules.overrides: no language '{language}'; {languages.closest(language)}")
        for name in values:
            if name not in names:
                raise UserError(f"rules.overrides.{language}: no threshold '{name}'; there are {', '.join(names)}")
    # A threshold of 0 switches a rule off. A user who means that says so in the overrides.
    named = {name for values in rules.overrides.values() for name in values}
    for rule in own:
        if not rule.limit and rule.name not in named:
            raise UserError(
                f"rule {rule.name}: its limit is 0, which switches it off; give it another, or limits of languages in "
                "rules.overrides"
            )
    # From the weakest to the strongest: the table, every language, the language itself.
    everywhere = {rule.name: float(rule.limit) for rule in own} | rules.overrides.get("*", {})
    return {
        language: {**values, **everywhere, **rules.overrides.get(language, {})}
        for language, values in THRESHOLDS.items()
    }


class Decision(NamedTuple):
    """What the rules say of a table of documents; arrays of its length."""

    rule: NDArray[np.int64]
    """Index of the first rule broken, -1 for none."""
    value: NDArray[np.float64]
    """The measured value; NaN where no rule is broken."""
    limit: NDArray[np.float64]
    """The threshold broken; NaN where no rule is."""


def decide(columns: pa.Table, table: dict[str, Thresholds], rules: Sequence[Rule] = RULES) -> Decision:
    """Apply the rules, in order, to every document.

    Args:
        columns: what the rules read, and `language`; a row per document.
        table: of `thresholds`; has every language that is in `columns`.
        rules: those to ask.

    Raises:
        UserError: a rule does not answer for each document.
    """
    count = columns.num_rows
    decision = Decision(np.full(count, -1), np.full(count, np.nan), np.full(count, np.nan))
    # Languages repeat: each limit is looked up once per language and then spread over its documents by code.
    encoded = columns["language"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    for index, rule in enumerate(rules):
        limits = np.array([table[name][rule.name] for name in names], dtype=np.float64)
        # Off for every language that is here: the column need not be read.
        if not limits.any():
            continue
        limit = limits[codes]
        # NaN compares as false: where a score is not there, nothing is broken.
        with np.errstate(invalid="ignore"):
            mask, value = (np.asarray(answer) for answer in rule.decide(columns, limit))
        if mask.shape != (count,) or value.shape != (count,) or mask.dtype != np.bool_:
            raise UserError(
                f"rule {rule.name}: decide() gave {mask.dtype} {mask.shape} and {value.dtype} {value.shape} for "
                f"{count} documents; return a bool and a number for each"
            )
        # The first rule broken is the reason, so documents that an earlier one drops are left as they are.
        broken = mask & (limit != 0) & (decision.rule < 0)
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


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column as float64; a text counts as 1 and an empty one as 0, null is NaN."""
    # A phrase such as `generated` is a finding: what matters is whether there is one.
    if is_text(column.type):
        column = pc.greater(pc.binary_length(column), 0)
    values: NDArray[np.float64] = pc.cast(column, pa.float64()).to_numpy()
    return values


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
