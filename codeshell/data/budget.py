"""The choice of the best documents within a budget, and the cap of what one library may have of the corpus.

Both take documents in one order: by rank, the highest first, and by a hash of the id where ranks are equal. The order
does not depend on shards, and without a cap a larger budget keeps all that a smaller one keeps.

The budget is divided among the languages by their bytes times a weight. A language that has less than its part keeps
all it has, and the rest of its part goes to the others in the same proportions.

The cap: of the documents that use a library, the best whose bytes together are at most `cap` of the bytes that stay. A
document of several libraries must be among the best of each. Which bytes stay depends on the cap itself, so the two are
found in rounds: what stayed in one round is the whole of the next, until no library has more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Candidates:
    """The documents to choose from; arrays of one entry per document, in any order."""

    rank: NDArray[np.float64]
    """Higher is better; no NaN."""
    hash: NDArray[np.uint64]
    bytes: NDArray[np.int64]
    language: NDArray[np.int64]
    """Numbers from 0."""

    def order(self) -> NDArray[np.int64]:
        """The documents from best to worst."""
        # The last key of lexsort is the first that counts.
        return np.lexsort((self.hash, -self.rank))


@dataclass(frozen=True)
class Uses:
    """Which documents use which libraries; arrays of one entry per use."""

    document: NDArray[np.int64]
    library: NDArray[np.int64]
    """Numbers from 0."""


@dataclass(frozen=True)
class Choice:
    """What goes. Document by document, ascending."""

    capped: NDArray[np.int64]
    """Documents that a full library drops."""
    library: NDArray[np.int64]
    """For each of them, the first of its libraries, by number, that is full."""
    share: NDArray[np.float64]
    """And what that library has with it and all its better documents, as a share of the bytes at the beginning of the
    last round: more than the cap."""
    beyond: NDArray[np.int64]
    """Documents that the budget drops."""
    limit: NDArray[np.float64]
    """For each language the rank of the worst document within the budget; NaN where there is none."""


def choose(
    candidates: Candidates,
    budget: int | None = None,
    weights: Mapping[int, float] | None = None,
    uses: Uses | None = None,
    cap: float = 1.0,
) -> Choice:
    """Choose by budget and cap.

    Args:
        budget: bytes that may stay; None for all.
        weights: of languages; 1 for those that are not named.
        uses: of libraries; None for none.
        cap: the largest share of the bytes that stay which a library may have, more than 0.
    """
    order = candidates.order()
    total = int(candidates.bytes.sum())
    reach = _reach(candidates, order, uses) if uses is not None else None
    # The bytes that stay, as far as they are known. A round can only lower them.
    stays = total if budget is None else min(budget, total)
    while True:
        full = np.zeros(len(order), bool)
        if reach is not None and uses is not None:
            full[uses.document[reach > cap * stays]] = True
        beyond, limit = _beyond(candidates, order[~full[order]], budget, weights or {})
        kept = ~full & ~beyond
        left = int(candidates.bytes[kept].sum())
        if uses is None or left >= stays or _largest(candidates, uses, kept) <= cap * left:
            break
        stays = min(left, stays - 1)
    capped = np.flatnonzero(full)
    library, share = np.empty(0, np.int64), np.empty(0)
    if reach is not None and uses is not None and len(capped):
        # Of each document the first library that is full: uses by document, then by library.
        over = np.flatnonzero(reach > cap * stays)
        over = over[np.lexsort((uses.library[over], uses.document[over]))]
        _, first = np.unique(uses.document[over], return_index=True)
        library, share = uses.library[over[first]], reach[over[first]] / max(stays, 1)
    return Choice(capped, library, share, np.flatnonzero(beyond), limit)


def shares(sizes: list[int], weights: list[float], budget: int) -> list[int]:
    """The part of the budget, in bytes, of each language: in proportion to size x weight, and at most its size.

    The parts add up to at most the budget.
    """
    parts = [0] * len(sizes)
    left = budget
    asking = [at for at, size in enumerate(sizes) if size and weights[at] > 0]
    while asking:
        whole = sum(sizes[at] * weights[at] for at in asking)
        part = {at: min(int(left * (sizes[at] * weights[at] / whole)), left) for at in asking}
        # Those that get all they have are settled; the others are asked again with what is left.
        full = [at for at in asking if sizes[at] <= part[at]]
        for at in full or asking:
            parts[at] = min(sizes[at], part[at])
        if not full:
            break
        left -= sum(parts[at] for at in full)
        asking = [at for at in asking if at not in full]
    return parts


def _beyond(
    candidates: Candidates, order: NDArray[np.int64], budget: int | None, weights: Mapping[int, float]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which documents of `order` (some of all, from best to worst) the budget drops, and `Choice.limit`."""
    languages = int(candidates.language.max(initial=-1)) + 1
    dropped, limit = np.zeros(len(candidates.rank), bool), np.full(languages, np.nan)
    mine = [order[candidates.language[order] == language] for language in range(languages)]
    sizes = [int(candidates.bytes[documents].sum()) for documents in mine]
    if budget is None:
        budget = sum(sizes)
        weights = {}
    parts = shares(sizes, [weights.get(language, 1.0) for language in range(languages)], budget)
    for language, (documents, part) in enumerate(zip(mine, parts, strict=True)):
        # The best as long as they fit: the first that does not ends it, so a larger budget keeps the same and more.
        fits = int(np.searchsorted(np.cumsum(candidates.bytes[documents]), part, "right"))
        dropped[documents[fits:]] = True
        if fits:
            limit[language] = candidates.rank[documents[fits - 1]]
    return dropped, limit


def _reach(candidates: Candidates, order: NDArray[np.int64], uses: Uses) -> NDArray[np.int64]:
    """For each use, the bytes of the library's documents up to and with this one, from the best on."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    by = np.lexsort((place[uses.document], uses.library))
    library, sizes = uses.library[by], candidates.bytes[uses.document[by]]
    running = np.cumsum(sizes)
    # What lies before the first use of each library is not its own.
    starts = np.flatnonzero(np.diff(library, prepend=-1))
    before = np.repeat((running - sizes)[starts], np.diff(np.append(starts, len(by))))
    reach = np.empty(len(by), np.int64)
    reach[by] = running - before
    return reach


def _largest(candidates: Candidates, uses: Uses, kept: NDArray[np.bool_]) -> int:
    """The bytes of the library that has most of the documents that stay."""
    there = kept[uses.document]
    # Sums of whole numbers below 2^53 are exact in float64, whatever their order.
    sizes = np.bincount(uses.library[there], candidates.bytes[uses.document[there]])
    return int(sizes.max(initial=0))
