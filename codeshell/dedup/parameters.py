"""The parameters of a search for near duplicates, checked, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from codeshell.dedup.minhash import BANDS, ROWS, SEED, THRESHOLD, check_parameters, shingle_length

METHODS = ("bands", "cpsjoin")
VERIFY = ("exact", "signature", "none")
CLUSTER = ("kept", "components")

MISS = 3e-5
"""The chance that a pair exactly at the threshold is lost because its sketches agree too little: four sigma."""

SKETCH_VALUES = 256
"""A sketch holds one byte of a lane: lanes that differ agree in it once in so many cases."""


@dataclass(frozen=True)
class Parameters:
    """What a search for near duplicates is asked for. `check` it before use.

    Args:
        threshold: Jaccard, in (0, 1], from which two documents are near duplicates.
        bands, rows: of MinHash; a pair of Jaccard J is a candidate with probability 1 - (1 - J^rows)^bands.
        shingles: "code", or a peer's: "starcoder", "stack-v2", "datatrove", "char-24"; see `minhash`.
        ngram: tokens, words or characters in a shingle; None is the shingles' own number, and `ngram` is then that.
        seed: chooses the hash functions.
        method: where candidates come from: "bands", or "cpsjoin" (Christiani, Pagh, Sivertsen, arXiv 1707.06814).
        verify: candidates by the "exact" Jaccard of their shingle sets, its estimate from the "signature", or "none".
        keep_order: who comes first and so stays: "first" (the input's order), "longest", "column:NAME" (smallest value
            first) or "column:NAME:desc"; ties by id.
        cluster: "kept": a document is dropped if it resembles one that stays; "components": if any chain of
            resemblances leads to an earlier one.
    """

    threshold: float = THRESHOLD
    bands: int = BANDS
    rows: int = ROWS
    shingles: str = "code"
    ngram: int = None  # type: ignore[assignment]
    seed: int = SEED
    method: str = "bands"
    verify: str = "exact"
    keep_order: str = "first"
    cluster: str = "kept"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ngram", shingle_length(self.shingles, self.ngram))

    def check(self) -> None:
        """Raise a `ValueError` that begins with the name of the first impossible parameter."""
        check_parameters(
            bands=self.bands,
            rows=self.rows,
            ngram=self.ngram,
            seed=self.seed,
            threshold=self.threshold,
            shingles=self.shingles,
        )
        for name, choices in (("method", METHODS), ("verify", VERIFY), ("cluster", CLUSTER)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name}: {value!r} is none of {', '.join(choices)}")
        if self.keep_order not in ("first", "longest") and not self.order_column:
            raise ValueError(
                f"keep_order: {self.keep_order!r} is none of first, longest, column:NAME, column:NAME:desc"
            )

    @property
    def order_column(self) -> str | None:
        """The column of a `keep_order` by one. Its name may hold colons, but not end in ":desc"."""
        kind, _, name = str(self.keep_order).partition(":")
        return (name.removesuffix(":desc") or None) if kind == "column" else None

    @property
    def order_descending(self) -> bool:
        """Whether the largest value of `order_column` comes first."""
        return self.order_column is not None and self.keep_order.endswith(":desc")

    @property
    def lanes(self) -> int:
        """Of a signature, and bytes of a sketch that count."""
        return self.bands * self.rows

    @property
    def width(self) -> int:
        """Bytes of a sketch: `lanes`, padded to whole 64."""
        return -(-self.lanes // 64) * 64

    @cached_property
    def least(self) -> int:
        """Equal bytes of two sketches from which the pair is worth a comparison: the largest number that a pair at
        exactly the threshold falls short of with probability `MISS` at most (the exact binomial tail)."""
        return _least(self.lanes, _agreement(self.threshold))

    @cached_property
    def sure(self) -> int:
        """Equal bytes from which two documents surely resemble each other: two sigma above the threshold's mean (all,
        if that is more than there are)."""
        p = _agreement(self.threshold)
        return min(self.lanes, math.ceil(self.lanes * p + 2 * math.sqrt(self.lanes * p * (1 - p))))


def _agreement(jaccard: float) -> float:
    """The probability that a byte of the sketches of two documents of this Jaccard is equal."""
    return jaccard + (1 - jaccard) / SKETCH_VALUES


def _least(n: int, p: float) -> int:
    """The largest e such that P(X < e) <= MISS, X ~ Binomial(n, p)."""
    if p >= 1:
        return n
    log_p, log_q = math.log(p), math.log1p(-p)
    below = 0.0  # P(X < e)
    for e in range(n):
        log_choose = math.lgamma(n + 1) - math.lgamma(e + 1) - math.lgamma(n - e + 1)
        below += math.exp(log_choose + e * log_p + (n - e) * log_q)
        if below > MISS:
            return e
    return n
