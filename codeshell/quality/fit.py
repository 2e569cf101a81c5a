"""Training of a quality model, and predictions of each label by models that have not seen its repository.

    linear ridge regression on the scorers' columns
    head   ridge regression on hashed n-grams: the labels, and beside them reference code whose level is known roughly
    trees  boosted trees on the scorers' columns and, as one more column, the head's good-from-bad score
    mix    standard scores of the three, times their shares
    lines  isotonic calibration of the mix, by target

Nothing of a held-out repository's labels reaches its predictions: head and trees are trained anew for each fold, and
the calibration of a fold is fitted on the other folds. What is shared by all folds sees no label: how rare an n-gram
is, and the good-from-bad score. Settings are fixed before; docs/decisions.md says which were tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.boosting import isotonic, ngrams, trees
from codeshell.boosting import linear as linear_score
from codeshell.boosting.linear import Linear
from codeshell.boosting.ngrams import NgramHead, Vectors
from codeshell.boosting.quality_model import HIGH, LOW, QualityModel, matrix, mixed
from codeshell.boosting.trees import Growth
from codeshell.quality.folds import folds_by_group
from codeshell.quality.labels import Labels
from codeshell.quality.reference import Reference
from codeshell.randomness import draw

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """How a model is trained."""

    growth: Growth = field(
        default_factory=lambda: Growth(
            trees=250, leaves=15, rate=0.04, least_weight=10, ridge=1, column_share=0.1, row_share=0.8, bins=64
        )
    )
    bags: int = 2
    """Ensembles of different chance that are averaged."""
    dimension_weight: float = 0.25
    """Weight of each dimension in choosing the splits, where the score has 1."""
    bits: int = 14
    """2^bits buckets of n-grams. 15 and 16 were no better, and the tables then leave the first caches."""
    most_bytes: int = 8192
    """Bytes of a text that the head reads."""
    ridge: float = 0.3
    head_share: float = 0.5
    """Weight of the head where that of the trees is 1; 0: no head."""
    linear_share: float = 1.0
    """The same for the linear score on the columns; 0: none."""
    linear_penalty: float = 50.0
    reference_weight: float = 0.25
    """Weight of all reference files together in the head, where that of all labels is 1."""
    reference_gap: float = 0.5
    """Points that good reference files are taken to lie above the mean of the labels, and bad ones below it."""
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Prepared:
    """All that training needs, computed once for all folds."""

    columns: tuple[str, ...]
    rows: Matrix
    """(labels, columns and perhaps the good-from-bad score)."""
    targets: Matrix
    """(labels, targets)."""
    groups: tuple[str, ...]
    vectors: Vectors
    """Those of the labelled texts, then of the reference."""
    rarity: NDArray[np.uint16]
    reference: Reference | None
    separator: NgramHead | None
    """Tells good from bad reference code."""


def prepare(
    labels: Labels, features: pa.Table, columns: Sequence[str], reference: Reference | None, settings: Settings
) -> Prepared:
    """Vectors of the texts, the good-from-bad score, and the matrix of the columns."""
    texts = labels.documents["text"]
    if reference is not None:
        texts = pa.chunked_array([*texts.chunks, pa.array(reference.texts, pa.large_string())])
    found = ngrams.vectors(texts, settings.bits, settings.most_bytes)
    rarity = ngrams.rarity_of(found)
    rows = matrix(features, columns)
    separator = None
    if reference is not None and settings.head_share:
        only = found.take(np.arange(len(labels), len(found)))
        separator = ngrams.train(only, rarity, reference.sides[:, None], reference.weights, settings.ridge)
        rows = np.concatenate([rows, separator.predict(labels.documents["text"])], axis=1)
    return Prepared(tuple(columns), rows, labels.targets, labels.groups, found, rarity, reference, separator)


def _train_head(data: Prepared, train: NDArray[np.int64], settings: Settings) -> NgramHead:
    """The head of some labels and all of the reference."""
    targets = data.targets[train]
    weights = np.ones(len(train))
    chosen = train
    if data.reference is not None:
        count = len(data.reference.texts)
        chosen = np.concatenate([train, np.arange(len(data.targets), len(data.targets) + count)])
        # Around the mean of these labels, not of all: the mean of held-out labels is not known.
        gap = settings.reference_gap * data.reference.sides[:, None]
        targets = np.concatenate([targets, targets.mean(0) + gap])
        total = settings.reference_weight * len(train)
        weights = np.concatenate([weights, data.reference.weights * (total / count)])
    return ngrams.train(data.vectors.take(chosen), data.rarity, targets, weights, settings.ridge)


def _train_trees(data: Prepared, train: NDArray[np.int64], settings: Settings, bags: int, seed: int) -> trees.Ensemble:
    """The trees of some labels."""
    importance = [1.0, *[settings.dimension_weight] * (data.targets.shape[1] - 1)]
    grown = []
    for bag in range(bags):
        chance = draw(settings.seed, seed, bag, "trees") >> 1
        growth = Growth(**{**vars(settings.growth), "seed": chance})
        grown.append(
            trees.grow(
                data.rows[train], data.targets[train], growth, target_weight=importance, threads=settings.threads
            )
        )
    return trees.joined(grown)


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of labels by models that have not seen their repository."""

    folds: NDArray[np.int64]
    trees: Matrix
    """(labels, targets)."""
    head: Matrix | None
    linear: Matrix | None
    level: Matrix
    """(labels, targets): the mean of the labels that the model of each label's fold was trained on. Every part of that
    model predicts around it. Where the held-out repositories are bad, the mean of the others is high: a ranking over
    all folds that kept the levels would be turned around by them, as the one model that is used never is."""
    raw: Matrix
    """(labels, targets): the mix of the parts less their level."""
    calibrated: Matrix
    """(labels, targets) from 0 to 5."""
    gain: NDArray[np.float64]
    """(columns and perhaps the good-from-bad score,) sum over the folds of the error that the splits took away."""


def out_of_fold(
    data: Prepared,
    settings: Settings,
    folds: NDArray[np.int64],
    seed: int = 0,
    *,
    bags: int | None = None,
    share: float = 1.0,
    head: Matrix | None = None,
) -> OutOfFold:
    """Predict each fold by a model of the others.

    Args:
        folds: (labels,) of each label.
        seed: of the trees' chance.
        bags: instead of `settings.bags`.
        share: of the training repositories that are used, for a learning curve.
        head: predictions of the head in the same folds, if they are there already: it does not read the columns.
    """
    by_trees = np.zeros_like(data.targets)
    by_head = np.zeros_like(data.targets) if settings.head_share else None
    by_lines = np.zeros_like(data.targets) if settings.linear_share else None
    level = np.zeros_like(data.targets)
    gain = np.zeros(data.rows.shape[1])
    for fold in np.unique(folds).tolist():
        test = np.flatnonzero(folds == fold)
        train = np.flatnonzero(folds != fold)
        if share < 1:
            train = _fewer(data.groups, train, share, fold)
        ensemble = _train_trees(data, train, settings, bags or settings.bags, seed)
        gain += ensemble.gain
        level[test] = data.targets[train].mean(0)
        by_trees[test] = ensemble.evaluator().predict(data.rows[test])
        if by_lines is not None:
            by_lines[test] = _train_linear(data, train, settings).predict(data.rows[test, : len(data.columns)])
        if by_head is not None and head is None:
            trained = _train_head(data, train, settings)
            by_head[test] = _apply_head(trained, data.vectors.take(test))
    if head is not None:
        by_head = head
    parts = levelled((by_trees, by_head, by_lines), level)
    raw = mixed(parts, _shares(settings), *standard(parts))
    calibrated = np.zeros_like(raw)
    for fold in np.unique(folds).tolist():
        test, others = folds == fold, folds != fold
        for t in range(raw.shape[1]):
            line = isotonic.fit(raw[others, t], data.targets[others, t], LOW, HIGH)
            calibrated[test, t] = line(raw[test, t])
    return OutOfFold(folds, by_trees, by_head, by_lines, level, raw, calibrated, gain)


def with_levels(one: OutOfFold, settings: Settings) -> Matrix:
    """The mix with the levels of the folds in it, as figures of pooled folds usually are; see `OutOfFold.level`."""
    parts = (one.trees, one.head, one.linear)
    return mixed(parts, _shares(settings), *standard(parts))


def _fewer(groups: Sequence[str], train: NDArray[np.int64], share: float, fold: int) -> NDArray[np.int64]:
    """The labels of the first repositories, in the order of a hash, until they are the share asked for."""
    names = sorted({groups[row] for row in train.tolist()}, key=lambda name: draw(name, fold, "learning curve"))
    kept: set[str] = set()
    count = 0
    for name in names:
        if count >= share * len(train):
            break
        kept.add(name)
        count += sum(groups[row] == name for row in train.tolist())
    return np.array([row for row in train.tolist() if groups[row] in kept], np.int64)


def _train_linear(data: Prepared, train: NDArray[np.int64], settings: Settings) -> Linear:
    """The linear score of some labels. It does not read the good-from-bad score, which the head knows already."""
    return linear_score.train(data.rows[train, : len(data.columns)], data.targets[train], settings.linear_penalty)


def _shares(settings: Settings) -> tuple[float, float, float]:
    """Weights of trees, head and linear score."""
    return 1.0, settings.head_share, settings.linear_share


def _apply_head(head: NgramHead, found: Vectors) -> Matrix:
    """What `head.predict` gives for texts whose vectors are there already, but for rounding."""
    unit = ngrams.unit_rows(found, head.rarity)
    weights = head.weights * head.scale / np.maximum(head.rarity, 1)[:, None]
    return ngrams.product(found, unit, weights) + head.start


def levelled(scores: Sequence[Matrix | None], level: Matrix) -> list[Matrix | None]:
    """The scores of the parts less the mean of the labels that each was trained on; see `OutOfFold.level`."""
    return [None if score is None else score - level for score in scores]


def standard(scores: Sequence[Matrix | None]) -> tuple[Matrix, Matrix]:
    """Centre and spread (parts, targets) of the scores of trees, head and linear score; 0 and 1 for an absent part."""
    shape = next(score.shape for score in scores if score is not None)
    parts = [score if score is not None else np.zeros(shape) for score in scores]
    centre = np.stack([part.mean(0) for part in parts])
    spread = np.stack([part.std(0) for part in parts])
    return centre, np.where(spread > 1e-9, spread, 1.0)


def train(
    data: Prepared, names: Sequence[str], settings: Settings, honest: OutOfFold, about: dict[str, object]
) -> QualityModel:
    """The model of all labels. Its standard scores and calibration come from the predictions out of fold: a model's
    scores of what it was trained on are too good.

    Args:
        names: of the targets.
        honest: of the same data and settings.
        about: for the file; `fingerprint` is added.
    """
    everything = np.arange(len(data.targets))
    ensemble = _train_trees(data, everything, settings, settings.bags, seed=0)
    head = _train_head(data, everything, settings) if settings.head_share else None
    if head is not None and data.separator is not None:
        head = _with_separator(head, data.separator)
    linear = _train_linear(data, everything, settings) if settings.linear_share else None
    centre, spread = standard(levelled((honest.trees, honest.head, honest.linear), honest.level))
    # The parts of this model predict around the mean of all labels.
    centre = centre + data.targets.mean(0)
    lines = tuple(isotonic.fit(honest.raw[:, t], data.targets[:, t], LOW, HIGH) for t in range(data.targets.shape[1]))
    # Leaves and weights tell models apart; the dates and figures in `about` need not.
    parts = [*ensemble.arrays().values(), centre, spread, *(array for line in lines for array in line)]
    for part in (head, linear):
        parts += list(part.arrays().values()) if part is not None else []
    digest = hashlib.blake2b(repr(data.columns).encode(), digest_size=8)
    for array in parts:
        digest.update(np.ascontiguousarray(array).tobytes())
    return QualityModel(
        columns=data.columns,
        targets=tuple(names),
        trees=ensemble,
        head=head,
        linear=linear,
        head_share=settings.head_share,
        linear_share=settings.linear_share,
        centre=centre,
        spread=spread,
        calibrations=lines,
        about={**about, "fingerprint": digest.hexdigest()},
    )


def _with_separator(head: NgramHead, separator: NgramHead) -> NgramHead:
    """The head with the good-from-bad score as its last target: one pass over a text gives all."""
    return NgramHead(
        head.bits,
        head.most_bytes,
        head.rarity,
        np.ascontiguousarray(np.concatenate([head.weights, separator.weights], axis=1)),
        np.concatenate([head.scale, separator.scale]),
        np.concatenate([head.start, separator.start]),
    )


def folds_of(data: Prepared, count: int, seed: int) -> NDArray[np.int64]:
    """(labels,) folds by repository."""
    return folds_by_group(data.groups, count, seed)
