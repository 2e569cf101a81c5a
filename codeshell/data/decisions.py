"""What the recipe's `[select]` says, as limits of columns by language, and its answer for a table of documents.

The order in which a document meets them: `minimum`, `maximum`, the package's rules, `lowest`, `highest`, and rules of
users. The first that it breaks is the reason. The budget and the cap of libraries, which look at all documents
together, are in `budget`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.data import rules
from codeshell.data.distributions import Distributions, languages_of
from codeshell.data.limits import OFF, Drops, Limit, number, package_limits
from codeshell.data.score import giver
from codeshell.data.sketches import FINE
from codeshell.documents import languages
from codeshell.errors import UserError
from codeshell.recipe import Recipe, Score, Select
from codeshell.registry import absolute

LIBRARIES = "library_names"
"""The column that the cap reads: names with spaces between them."""

ALL_TOGETHER = ("library_cap", "budget")
"""Reasons that look at all documents, in their order."""


@dataclass(frozen=True)
class Plan:
    """All that decides about a document, to be pickled to the workers."""

    limits: tuple[Limit, ...]
    own: tuple[str, ...]
    """Places of users' rules, with whole paths."""
    own_limits: Mapping[str, Mapping[str, float]]
    """`{language: {rule: limit}}` of them; 0 switches one off."""
    weights: Mapping[str, float]
    bonus: Mapping[str, float]

    @property
    def reasons(self) -> list[str]:
        """Why a document may go, in order; decisions are numbers of this list."""
        own = [rule.name for rule in rules.own_rules(self.own)]
        return [*(limit.name for limit in self.limits), *own, *ALL_TOGETHER]

    @property
    def columns(self) -> list[str]:
        """The columns that are read, `language` apart."""
        own = [column for rule in rules.own_rules(self.own) for column in rule.columns]
        names = [*(limit.column for limit in self.limits), *own, *self.weights, *self.bonus]
        return [name for name in dict.fromkeys(names) if name != "language"]


def check(recipe: Recipe, known: Mapping[str, str | None]) -> None:
    """Raise a `UserError` for an unknown score, language or rule, or a rule of one's own that is none.

    Args:
        known: the columns that there will be, each with the scorer that gives it (None: every document has it).
    """
    select = recipe.select
    named = [
        (f"{key}.{language}", column)
        for key in ("minimum", "maximum", "lowest", "highest")
        for language, columns in getattr(select, key).items()
        for column in columns
    ]
    named += [(key, column) for key in ("weights", "bonus") for column in getattr(select, key)]
    for where, column in named:
        if column not in known:
            raise UserError(f"select.{where}: {unknown(column, known, recipe.score)}")
    if select.library_cap and LIBRARIES not in known:
        raise UserError(
            "select.library_cap: reads the column 'library_names'; name libraries in score.scorers, or set it to 0"
        )
    for key in ("minimum", "maximum", "lowest", "highest", "overrides", "language_weights"):
        for language in getattr(select, key):
            if language not in languages.names() and (language != "*" or key == "language_weights"):
                raise UserError(f"select.{key}: no language '{language}'; {languages.closest(language)}")
    own = rules.own_rules(select.own)
    rules.check_columns(own, [*known], rules.AFTER_SCORES)
    table = {limit.name: limit for limit in package_limits()}
    there = [*(name for name in table if select.package_rules), *(rule.name for rule in own)]
    for language, values in select.overrides.items():
        for name in values:
            if name in table and not select.package_rules:
                raise UserError(
                    f"select.overrides.{language}: {name} is a rule of the package; set select.package_rules"
                )
            if name not in there:
                raise UserError(
                    f"select.overrides.{language}: no rule '{name}'; there are {', '.join(there) or 'none'}"
                )
    # A drop is recorded by its reason's name alone.
    names = plan(recipe, known, None).reasons
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"select.own: the name {repeated[0]!r} is taken; choose another")


def unknown(column: str, known: Collection[str], score: Score) -> str:
    """The message for a score that there is not: who would give it, or what it may have been meant to be."""
    by = giver(column, score)
    if by:
        return f"no score {column!r} in this run; name the scorer {by} in score.scorers"
    near = difflib.get_close_matches(column, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"no score {column!r}; {hint}There are {', '.join(sorted(known))}"


def fine_columns(select: Select) -> dict[str, int]:
    """The columns that quantiles and ranks are taken from, with the bins of their sketches."""
    names = [name for key in (select.lowest, select.highest) for columns in key.values() for name in columns]
    return dict.fromkeys([*names, *select.weights], FINE)


def plan(recipe: Recipe, known: Collection[str], distributions: Distributions | None) -> Plan:
    """The plan of a recipe.

    Args:
        known: the columns that there are; the package's rules on others are left out.
        distributions: of the scores, for quantiles; None leaves their limits out, as `check` does.
    """
    select = recipe.select
    limits: list[Limit] = []
    # Sorted by column: the order of the keys in the recipe must not matter.
    sides: tuple[tuple[str, Drops], ...] = (("minimum", "below"), ("maximum", "above"))
    for key, drops in sides:
        limits += [
            Limit(f"{key[:3]}_{column}", column, drops, everywhere, by_language, f"select.{key}")
            for column, (everywhere, by_language) in _by_column(getattr(select, key)).items()
        ]
    if select.package_rules:
        limits += [_overridden(limit, select) for limit in package_limits() if limit.column in known]
    sides = (("lowest", "below"), ("highest", "above"))
    for key, drops in sides:
        for column, (everywhere, by_language) in _by_column(getattr(select, key)).items():
            cuts = {}
            for language in distributions.languages if distributions else ():
                share = by_language.get(language, everywhere)
                # A share of 0 drops nothing, and needs no limit.
                if share > 0 and distributions:
                    cuts[language] = getattr(distributions.of(column, language, FINE), key)(share)
            limits.append(Limit(f"{key}_{column}", column, drops, OFF, cuts, f"select.{key}"))
    own = rules.own_rules(select.own)
    everywhere_own = {rule.name: float(_zero(select.overrides.get("*", {}).get(rule.name, rule.limit))) for rule in own}
    own_limits = {
        language: {
            name: float(_zero(select.overrides.get(language, {}).get(name, value)))
            for name, value in everywhere_own.items()
        }
        for language in languages.names()
    }
    return Plan(
        tuple(limits),
        tuple(map(absolute, select.own)),
        own_limits,
        dict(sorted(select.weights.items())),
        dict(sorted(select.bonus.items())),
    )


@dataclass(frozen=True)
class Decided:
    """The answer for some documents; arrays of one entry per document."""

    reason: NDArray[np.int64]
    """A number of `Plan.reasons`; -1 for none."""
    value: NDArray[np.float64]
    limit: NDArray[np.float64]
    """The value that was measured, and the limit it broke; NaN where there is no reason."""


def decide(this: Plan, table: pa.Table) -> Decided:
    """The first reason of every document.

    Args:
        table: `Plan.columns` and `language`.
    """
    count = table.num_rows
    decided = Decided(np.full(count, -1), np.full(count, np.nan), np.full(count, np.nan))
    by_language = list(languages_of(table["language"]))
    for index, limit in enumerate(this.limits):
        limits = spread(limit, by_language, count)
        if np.isnan(limits).all():
            continue
        values = rules.numbers(table[limit.column])
        broken = limit.broken(values, limits) & (decided.reason < 0)
        decided.reason[broken] = index
        decided.value[broken], decided.limit[broken] = values[broken], limits[broken]
    own = rules.own_rules(this.own)
    if own:
        answer = rules.decide(table, {name: dict(values) for name, values in this.own_limits.items()}, own)
        broken = (answer.rule >= 0) & (decided.reason < 0)
        decided.reason[broken] = answer.rule[broken] + len(this.limits)
        decided.value[broken], decided.limit[broken] = answer.value[broken], answer.limit[broken]
    return decided


def spread(limit: Limit, by_language: Sequence[tuple[str, NDArray[np.int64]]], count: int) -> NDArray[np.float64]:
    """(count,): the limit of each document's language; NaN where it is off."""
    limits = np.full(count, OFF)
    for language, rows in by_language:
        limits[rows] = limit.of(language)
    return limits


def ranks(this: Plan, table: pa.Table, distributions: Distributions) -> NDArray[np.float64]:
    """(documents,): the rank of each for the budget, 0 to 1 and a bonus on top.

    It is the weighted mean of the document's places in the distributions of its language. Where it has no such score,
    its place is the middle. Without weights it is 0.5 for all.
    """
    rank = np.full(table.num_rows, 0.5)
    whole = sum(abs(weight) for weight in this.weights.values())
    by_language = list(languages_of(table["language"]))
    if whole:
        rank = np.zeros(table.num_rows)
        for column, weight in this.weights.items():
            values = rules.numbers(table[column])
            place = np.full(table.num_rows, 0.5)
            for language, rows in by_language:
                found = distributions.of(column, language, FINE).rank(values[rows])
                place[rows] = np.where(np.isnan(found), 0.5, found)
            rank += abs(weight) / whole * (place if weight > 0 else 1 - place)
    for column, strength in this.bonus.items():
        value = np.clip(np.nan_to_num(rules.numbers(table[column]), nan=0.0), 0.0, 1.0)
        rank = rank * (1 + strength * value)
    return rank


def _by_column(setting: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, dict[str, float]]]:
    """`{language: {column: value}}` by column: the value of every language, and those of single ones; sorted."""
    columns = sorted({column for values in setting.values() for column in values})
    return {
        column: (
            float(setting.get("*", {}).get(column, OFF)),
            {
                language: float(values[column])
                for language, values in sorted(setting.items())
                if language != "*" and column in values
            },
        )
        for column in columns
    }


def _overridden(limit: Limit, select: Select) -> Limit:
    """A rule of the package with the recipe's limits on top. `"*"` is every language, those of the table included."""
    everywhere, by_language = limit.everywhere, dict(limit.by_language or {})
    if limit.name in select.overrides.get("*", {}):
        everywhere, by_language = number(select.overrides["*"][limit.name]), {}
    for language, values in select.overrides.items():
        if language != "*" and limit.name in values:
            by_language[language] = number(values[limit.name])
    return replace(limit, everywhere=everywhere, by_language=by_language)


def _zero(limit: float | str) -> float:
    """The limit of a user's rule, which 0 switches off."""
    return 0.0 if limit == "off" else float(limit)
