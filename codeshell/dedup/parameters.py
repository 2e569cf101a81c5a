"""The parameters of a search for near duplicates: their checks, and the numbers that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from codeshell.dedup.minhash import BANDS, ROWS, SEED, THRESHOLD, check_parameters, shingle_length

METHODS = ("bands", "cpsjoin")
VERIFY = ("exact", "signature", "none")
CLUSTER = ("kept", "components")

MISS = 3e-5
"""The probability that a pair exactly at the threshold is lost because its sketches agree too little: four sigma."""

SKETCH_VALUES = 256
"""A sketch holds one byte per lane. Lanes that differ agree in this byte once in so many cases."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of a search for near duplicates. Call `check` before use.

    Args:
        threshold: Jaccard, in (0, 1], from which two documents are near duplicates.
        bands, rows: MinHash bands and rows per band; a pair of Jaccard J is a candidate with probability
            1 - (1 - J^rows)^bands.
        shingles: "code", or those of a peer: "starcoder", "stack-v2", "datatrove", "char-24"; see `minhash`.
        ngram: tokens, words or characters in a shingle; None is replaced by the own number of these shingles.
        seed: chooses the hash functions.
        method: how candidates are found: "bands", or "cpsjoin" (Christiani, Pagh, Sivertsen, arXiv 1707.06814).
        verify: how candidates are checked: by the "exact" Jaccard of their shingle sets, by its estimate from the
            "signature", or not at all ("none").
        keep_order: which documents come first and so stay: "first" (the input's order), "longest", "column:NAME"
            (smallest value first) or "column:NAME:desc"; ties go by id.
        cluster: "kept": a document is dropped if it resembles one that stays; "components": a document is dropped if
            any chain of resemblances leads to an earlier one.
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
        """The column that `keep_order` names, if it does. The name may hold colons, but not end in ":desc"."""
        kind, _, name = str(self.keep_order).partition(":")
        return (name.removesuffix(":desc") or None) if kind == "column" else None

    @property
    def order_descending(self) -> bool:
        """Whether the largest value of `order_column` comes first."""
        return self.order_column is not None and self.keep_order.endswith(":desc")

    @property
    def lanes(self) -> int:
        """MinHash lanes of a signature, which is also the number of bytes of a sketch that count."""
        return self.bands * self.rows

    @property
    def width(self) -> int:
        """Bytes of a sketch: `lanes`, padded to a multiple of 64."""
        return -(-self.lanes // 64) * 64

    @cached_property
    def least(self) -> int:
        """Equal bytes of two sketches from which the pair is worth a comparison: the largest number that a pair exactly
        at the threshold falls short of with probability at most `MISS` (the exact binomial tail)."""
        return _least(self.lanes, _agreement(self.threshold))

    @cached_property
    def sure(self) -> int:
        """Equal bytes from which two documents surely resemble each other: two sigma above the mean at the threshold,
        and never more than all of them."""
        # Mean and deviation of a binomial: every byte agrees with probability p, independently.
        p = _agreement(self.threshold)
        return min(self.lanes, math.ceil(self.lanes * p + 2 * math.sqrt(self.lanes * p * (1 - p))))


def _agreement(jaccard: float) -> float:
    """The probability that a byte of the sketches of two documents of this Jaccard is equal."""
    return jaccard + (1 - jaccard) / SKETCH_VALUES


def _least(n: int, p: float) -> int:
    """The largest e such that P(X < e) <= MISS, X ~ Binomial(n, p)."""
    if p >= 1:  # the threshold 1: all bytes agree
        return n
    log_p, log_q = math.log(p), math.log1p(-p)
    # Add up the probabilities P(X = 0), P(X = 1) and so on, in logarithms: the binomial coefficients overflow.
    below = 0.0  # P(X <= e)
    for e in range(n):
        # log of n choose e.
        log_choose = math.lgamma(n + 1) - math.lgamma(e + 1) - math.lgamma(n - e + 1)
        below += math.exp(log_choose + e * log_p + (n - e) * log_q)
        if below > MISS:
            return e
    return n
