"""Boosted trees over columns, and a linear head on hashed n-grams of a text: csrc/boosting."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

leaf_bits: int
"""A leaf's value is in units of 2^-leaf_bits."""

class Trees:
    """An ensemble, checked and laid out for evaluation; the arrays are those of `codeshell.boosting.trees.Ensemble`.

    Raises:
        ValueError: no training can have made it.
    """

    def __init__(
        self,
        feature: NDArray[np.int32],
        threshold: NDArray[np.float64],
        left: NDArray[np.int32],
        right: NDArray[np.int32],
        missing_left: NDArray[np.uint8],
        roots: NDArray[np.int64],
        values: NDArray[np.int32],
        features: int,
    ) -> None: ...
    def sum(self, rows: NDArray[np.float64]) -> NDArray[np.int64]:
        """Sums of the leaves of documents (documents, features): (documents, targets), in units of 2^-24."""

def grow(
    bins: NDArray[np.uint8],
    counts: NDArray[np.uint16],
    monotone: NDArray[np.int8],
    targets: NDArray[np.float64],
    target_weight: NDArray[np.float64],
    weights: NDArray[np.float64],
    groups: NDArray[np.int64],
    start: NDArray[np.int64],
    *,
    trees: int,
    leaves: int,
    rate: float,
    least_weight: float,
    ridge: float,
    column_share: float,
    row_share: float,
    seed: int,
    threads: int,
) -> dict[str, NDArray[Any]]:
    """Grow an ensemble on binned columns (features, rows); see csrc/boosting/grow.h.

    Returns:
        The arrays of `Ensemble` with `bin` in place of `threshold`, and `gain` (features,).
    """

def count_ngrams(
    data: Buffer, offsets: NDArray[np.int64], bits: int, most_bytes: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
    """Hashed n-grams of all texts.

    Returns:
        buckets (entries,), each text's ascending; counts (entries,); bounds (texts + 1,).
    """

def score_ngrams(
    data: Buffer,
    offsets: NDArray[np.int64],
    bits: int,
    most_bytes: int,
    rarity: NDArray[np.uint16],
    weights: NDArray[np.int16],
) -> NDArray[np.float64]:
    """Sums of the weights (2^bits, targets) of each text's n-grams over the length of its vector: (texts, targets)."""

def linear_score(
    rows: NDArray[np.float64],
    centre: NDArray[np.float64],
    spread: NDArray[np.float64],
    weights: NDArray[np.float64],
    start: NDArray[np.float64],
    farthest: float,
) -> NDArray[np.float64]:
    """(documents, targets): the start, and the standardised columns times their weights; NaN is the mean."""

def sparse_product(
    columns: NDArray[np.uint32], values: NDArray[np.float64], bounds: NDArray[np.int64], dense: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sparse rows (entries bounds[i] .. bounds[i + 1] are row i's) times a dense matrix (width, targets)."""

def sparse_transposed(
    columns: NDArray[np.uint32],
    values: NDArray[np.float64],
    bounds: NDArray[np.int64],
    dense: NDArray[np.float64],
    width: int,
) -> NDArray[np.float64]:
    """The transposed sparse rows times a dense matrix (rows, targets): (width, targets)."""
