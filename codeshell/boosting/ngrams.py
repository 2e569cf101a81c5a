"""A linear score on hashed n-grams of a text: ridge regression on dampened counts, weights in 16-bit integers.

What the n-grams are, and how a text is scored, is in csrc/boosting/ngrams.h. Rare buckets count more (inverse document
frequency); a text's vector has length 1. Training solves the ridge regression by conjugate gradients on the sparse
vectors, whose products are taken in C++ in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents.texts import Texts, text_buffers

RARITY_UNIT = 512
"""A rarity of 1.0 as it is stored; the largest is 4095."""

MOST_RARITY = 4095

TOLERANCE = 1e-5
STEPS = 40
"""Steps of the conjugate gradients: they end at this relative residual, or after so many steps."""


@dataclass(frozen=True)
class NgramHead:
    """A trained head."""

    bits: int
    """2^bits buckets."""
    most_bytes: int
    """Bytes of a text that are read."""
    rarity: NDArray[np.uint16]
    """(2^bits,)"""
    weights: NDArray[np.int16]
    """(2^bits, targets)"""
    scale: NDArray[np.float64]
    """(targets,) what a sum of weights over a length is multiplied with."""
    start: NDArray[np.float64]
    """(targets,) the score of a text without n-grams."""

    def predict(self, texts: Texts) -> NDArray[np.float64]:
        """Scores of texts: (texts, targets). The same bits everywhere."""
        found = [
            _C.boosting.score_ngrams(piece.data, piece.offsets, self.bits, self.most_bytes, self.rarity, self.weights)
            for piece in text_buffers(texts)
        ]
        sums = np.concatenate([np.empty((0, self.weights.shape[1])), *found])
        result: NDArray[np.float64] = sums * self.scale + self.start
        return result

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All but `bits` and `most_bytes`, by name."""
        return {"rarity": self.rarity, "weights": self.weights, "scale": self.scale, "start": self.start}


@dataclass(frozen=True)
class Vectors:
    """Sparse rows of dampened counts: entries bounds[i] .. bounds[i + 1] are those of text i."""

    bits: int
    most_bytes: int
    buckets: NDArray[np.uint32]
    values: NDArray[np.float64]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """Some rows, in the order asked for."""
        lengths = np.diff(self.bounds)[rows]
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.repeat(self.bounds[rows] - bounds[:-1], lengths) + np.arange(bounds[-1])
        return Vectors(self.bits, self.most_bytes, self.buckets[entries], self.values[entries], bounds)


def vectors(texts: Texts, bits: int, most_bytes: int) -> Vectors:
    """The dampened counts of texts."""
    parts = [_C.boosting.count_ngrams(piece.data, piece.offsets, bits, most_bytes) for piece in text_buffers(texts)]
    buckets = np.concatenate([np.empty(0, np.uint32), *(part[0] for part in parts)])
    counts = np.concatenate([np.empty(0, np.uint32), *(part[1] for part in parts)])
    lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(part[2]) for part in parts)])
    return Vectors(bits, most_bytes, buckets, _damped(counts), np.concatenate([[0], np.cumsum(lengths)]))


def _damped(counts: NDArray[np.uint32]) -> NDArray[np.float64]:
    """`damped` of csrc/boosting/ngrams.h for many counts."""
    whole = counts.astype(np.int64)
    # frexp is exact: c = m * 2^e with 0.5 <= m < 1, so the power of two in c is e - 1.
    power = np.frexp(whole.astype(np.float64))[1].astype(np.int64) - 1
    rest = whole - (np.int64(1) << power)
    return (23 + 16 * power + (rest * 16 >> power)).astype(np.float64)


def rarity_of(found: Vectors) -> NDArray[np.uint16]:
    """(2^bits,) smoothed inverse document frequency of each bucket, in units of 1/512."""
    frequency = np.bincount(found.buckets, minlength=1 << found.bits)
    values = np.log((1 + len(found)) / (1 + frequency)) + 1
    result: NDArray[np.uint16] = np.minimum(np.rint(values * RARITY_UNIT), MOST_RARITY).astype(np.uint16)
    return result


def unit_rows(found: Vectors, rarity: NDArray[np.uint16]) -> NDArray[np.float64]:
    """(entries,) values times rarity, each row at length 1."""
    raw = found.values * rarity[found.buckets]
    total = np.concatenate([[0.0], np.cumsum(raw * raw)])
    squares = total[found.bounds[1:]] - total[found.bounds[:-1]]
    lengths = np.sqrt(np.where(squares > 0, squares, 1.0))
    result: NDArray[np.float64] = raw / np.repeat(lengths, np.diff(found.bounds))
    return result


def product(found: Vectors, unit: NDArray[np.float64], dense: NDArray[np.float64]) -> NDArray[np.float64]:
    """(texts, targets): sparse rows with the values `unit` times a dense matrix (2^bits, targets)."""
    return _C.boosting.sparse_product(found.buckets, unit, found.bounds, np.ascontiguousarray(dense))


def solve(
    product: Callable[[NDArray[np.float64]], NDArray[np.float64]], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, targets) x with `product(x)` = right, by conjugate gradients; the matrix is symmetric and positive."""
    result = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    squares = (residual * residual).sum(0)
    enough = TOLERANCE**2 * np.maximum(squares, 1e-300)
    for _ in range(STEPS):
        # A target that is solved takes no further step.
        moving = squares > enough
        if not moving.any():
            break
        image = product(direction)
        step = np.where(moving, squares / np.where(moving, (direction * image).sum(0), 1.0), 0.0)
        result += step * direction
        residual -= step * image
        after = (residual * residual).sum(0)
        direction = residual + np.where(moving, after / np.where(moving, squares, 1.0), 0.0) * direction
        squares = np.where(moving, after, squares)
    return result


def train(
    found: Vectors,
    rarity: NDArray[np.uint16],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    ridge: float,
) -> NgramHead:
    """Fit a head by weighted ridge regression.

    Args:
        found: the vectors of the texts.
        rarity: (2^bits,) of `rarity_of`, perhaps from more texts.
        targets: (texts, targets) float64.
        weights: (texts,) of each in the sum of squared errors.
        ridge: weight of the penalty on squared weights; the vectors have length 1.
    """
    buckets, bounds = found.buckets, found.bounds
    unit = unit_rows(found, rarity)
    width = 1 << found.bits
    start = (targets * weights[:, None]).sum(0) / weights.sum()

    def normal(columns: NDArray[np.float64]) -> NDArray[np.float64]:
        image = _C.boosting.sparse_product(buckets, unit, bounds, columns) * weights[:, None]
        return _C.boosting.sparse_transposed(buckets, unit, bounds, image, width) + ridge * columns

    right = (targets - start) * weights[:, None]
    primal = solve(normal, _C.boosting.sparse_transposed(buckets, unit, bounds, right, width))
    # A text's sum is of damped counts times these, over the length of damped counts times rarity.
    real = primal * rarity[:, None]
    largest = np.abs(real).max(0)
    scale = np.where(largest > 0, largest, 1.0) / 32767
    return NgramHead(found.bits, found.most_bytes, rarity, np.rint(real / scale).astype(np.int16), scale, start)
