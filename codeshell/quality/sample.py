"""A stratified sample of documents to annotate: equal shares of the languages, and of the quantiles in each of them.

Which documents a stratum gives is decided by a hash of (seed, id), so the sample does not depend on the order of the
inputs, and a larger sample holds the smaller one: more labels later cost only what is new.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codeshell.documents import batches, languages
from codeshell.documents.inputs import InputOptions, Listing, cut
from codeshell.documents.readers import storable
from codeshell.documents.shards import document_id
from codeshell.errors import UserError
from codeshell.randomness import draw

SHARD_BYTES = 64 << 20
"""Text that is listed at a time; it changes nothing in what is read."""

UNKNOWN = "unknown"
"""The language of a document that has none and whose path and first line show none."""

QUANTILES = 4
"""Parts of equal size into which a language's documents are cut by length, or by the column that is named."""


class Document(NamedTuple):
    """A document that may be annotated."""

    id: str
    """From the id column, else the hash of the text."""
    repo: str
    path: str
    language: str
    text: str
    by: float
    """The value by whose quantiles is sampled; NaN where the column has none."""


def documents(
    inputs: Sequence[str], options: InputOptions, by: str | None, left_out: Counter[str]
) -> Iterator[Document]:
    """Every document of the inputs with a text, in a fixed order; the others are counted in `left_out` by reason.

    Args:
        inputs: folders, Parquet, JSONL and other files of rows, as for all commands.
        by: the column of numbers whose quantiles are strata; None for the length in bytes.

    Raises:
        UserError: an input that is not there, a damaged file, or a column that is none of numbers.
    """
    options = replace(options, order_column=by)
    listing = Listing(inputs, options)
    for (shard,) in cut(listing, SHARD_BYTES):
        if by and shard.order_type == "string":
            raise UserError(f"--by {by}: holds text; name a column of numbers, or leave it out to take the length")
        for row, text in batches.texts(shard, options, left_out):
            size = len(row.text)
            if not text.strip():
                left_out["blank"] += 1
                continue
            language = row.language or languages.by_path(row.path or "", row.text) or UNKNOWN
            yield Document(
                id=storable(row.id) if row.id is not None else document_id(row.text),
                repo=storable(row.repo or ""),
                path=storable(row.path or row.place),
                language=storable(language),
                text=text,
                by=_number(row.order) if by else float(size),
            )
    left_out.update(listing.left_out)


def stratified(items: Iterable[tuple[str, str, float]], count: int, seed: int) -> set[str]:
    """The ids of a stratified sample.

    Args:
        items: (id, language, value) of each document; of several with one id the first counts. They are streamed, and
            some hundred bytes per document stay in memory.
        count: documents to choose; all of them, where there are no more.

    Returns:
        At most `count` ids. The languages have equal shares, and so have the quantiles of the values in a language;
        what a small stratum cannot give, the others give.
    """
    names: dict[str, list[str]] = {}
    values: dict[str, list[float]] = {}
    seen: set[str] = set()
    for identity, language, value in items:
        if identity not in seen:
            seen.add(identity)
            names.setdefault(language, []).append(identity)
            values.setdefault(language, []).append(value)
    # Shares of the languages in their order, then of the strata in a language.
    order = sorted(names)
    quotas = share([len(names[language]) for language in order], count, [draw(seed, x, "language") for x in order])
    chosen: set[str] = set()
    for language, quota in zip(order, quotas, strict=True):
        strata = quantiles(np.asarray(values[language], np.float64))
        groups: list[list[str]] = [[] for _ in range(QUANTILES + 1)]
        for identity, stratum in zip(names[language], strata.tolist(), strict=True):
            groups[stratum].append(identity)
        keys = [draw(seed, language, place, "stratum") for place in range(len(groups))]
        for group, size in zip(groups, share([len(group) for group in groups], quota, keys), strict=True):
            chosen.update(sorted(group, key=lambda name: (draw(seed, name, "annotate"), name))[:size])
    return chosen


def quantiles(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,): the stratum of each value, from 0; equal values are in one stratum, and those without a value in the
    last, `QUANTILES`."""
    strata = np.full(len(values), QUANTILES, np.int64)
    known = ~np.isnan(values)
    if known.any():
        ordered = np.sort(values[known])
        places = [min(len(ordered) * part // QUANTILES, len(ordered) - 1) for part in range(1, QUANTILES)]
        strata[known] = np.searchsorted(ordered[places], values[known], side="right")
    return strata


def share(sizes: Sequence[int], count: int, keys: Sequence[int]) -> list[int]:
    """How many each group gives, so that they give `count` together and are as equal as their sizes allow.

    What is left when all have given the same goes to the groups with the smallest keys, one each. A larger `count`
    takes from no group less.
    """
    count = min(count, sum(sizes))
    # The level to which all groups are filled: sum(min(size, level)) <= count < sum(min(size, level + 1)).
    low, high = 0, max(sizes, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in sizes) <= count:
            low = middle
        else:
            high = middle - 1
    quotas = [min(size, low) for size in sizes]
    left = count - sum(quotas)
    able = sorted((key, place) for place, (key, size) in enumerate(zip(keys, sizes, strict=True)) if size > low)
    for _, place in able[:left]:
        quotas[place] += 1
    return quotas


def _number(value: object) -> float:
    """A value of the column; NaN for none and for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan
