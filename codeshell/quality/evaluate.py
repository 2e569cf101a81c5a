"""The figures of a model: agreement out of fold over several ways to deal the folds, beside simple baselines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from codeshell.boosting.quality_model import DIMENSIONS
from codeshell.quality import baselines, metrics
from codeshell.quality.fit import OutOfFold, Prepared, Settings, folds_of, out_of_fold, with_levels
from codeshell.quality.labels import Labels

CURVE = (0.25, 0.5)
"""Shares of the training repositories of the learning curve; the whole is in the main figures."""

LANGUAGE_MODEL = ("tokens", "bits_per_byte", "bad_bits_per_byte", "contrast")
"""Columns of the language models: what they add is a row of its own."""

Say = Callable[[str], None]

Forms = tuple[metrics.Vector, metrics.Vector]
"""What ranks, and what is in points."""


def evaluate(
    labels: Labels, data: Prepared, settings: Settings, folds: int, repeats: int, say: Say
) -> tuple[OutOfFold, dict[str, Any]]:
    """Train and judge out of fold.

    Args:
        folds: how many.
        repeats: how often the folds are dealt anew; figures are means.
        say: is told what is being done.

    Returns:
        The predictions of the first deal, and the figures: `labels`, `models {name: {measure: {mean, low, high}}}`,
        `calibration`, `curve`, `importance`, `dimensions`, `languages`.
    """
    dealt = [folds_of(data, folds, seed) for seed in range(repeats)]
    languages = labels.documents["language"].to_pylist()
    score = labels.score
    runs: list[OutOfFold] = []
    for seed, fold in enumerate(dealt):
        say(f"folds {seed + 1} of {repeats}: trees and head")
        runs.append(out_of_fold(data, settings, fold, seed))
    lengths = np.array(labels.documents["bytes"].to_pylist(), np.float64)
    # Each predictor has two forms: one that ranks, and one in points. What ranks is taken less the level of its fold
    # (see `fit.OutOfFold.level`), and for a model it is not calibrated: the line is another one in each fold.
    simple = {
        "language mean": [baselines.language_mean(languages, score, fold) for fold in dealt],
        "length only": [baselines.length_only(lengths, score, fold) for fold in dealt],
        "ridge on the columns": [baselines.ridge(data.rows[:, : len(data.columns)], score, fold) for fold in dealt],
    }
    levels = [one.level[:, 0] for one in runs]
    predictions = {
        name: [(one - level, one) for one, level in zip(found, levels, strict=True)] for name, found in simple.items()
    }
    # The length itself ranks as well as any rising line on it.
    predictions["length only"] = [(lengths, one) for one in simple["length only"]]
    plain = [place for place, name in enumerate(data.columns) if name not in LANGUAGE_MODEL]
    if len(plain) < len(data.columns):
        say("without the columns of the language models")
        reduced = Prepared(
            tuple(data.columns[place] for place in plain),
            np.ascontiguousarray(data.rows[:, [*plain, *range(len(data.columns), data.rows.shape[1])]]),
            *(getattr(data, name) for name in ("targets", "groups", "vectors", "rarity", "reference", "separator")),
        )
        others = [out_of_fold(reduced, settings, fold, seed, head=runs[seed].head) for seed, fold in enumerate(dealt)]
        predictions["without language models"] = [_forms(one) for one in others]
    predictions["trees alone"] = [(one.trees[:, 0] - one.level[:, 0], one.trees[:, 0]) for one in runs]
    if runs[0].head is not None:
        predictions["n-grams alone"] = [
            (one.head[:, 0] - one.level[:, 0], one.head[:, 0]) for one in runs if one.head is not None
        ]
    predictions["model, levels of the folds kept"] = [
        (with_levels(one, settings)[:, 0], one.calibrated[:, 0]) for one in runs
    ]
    predictions["model"] = [_forms(one) for one in runs]
    models = {name: _figures(found, score, labels.groups, languages) for name, found in predictions.items()}
    say("learning curve")
    curve = {}
    for share in CURVE:
        one = out_of_fold(data, settings, dealt[0], bags=1, share=share)
        curve[f"{share:g}"] = _measure(_forms(one), score)
    curve["1"] = _measure(_forms(runs[0]), score)
    names = [*data.columns, *(["good_from_bad"] if data.separator is not None else [])]
    gain = np.sum([one.gain for one in runs], axis=0)
    order = np.argsort(-gain, kind="stable")
    importance = {names[place]: float(gain[place] / max(gain.sum(), 1e-300)) for place in order.tolist()}
    figures = {
        "labels": len(labels),
        "repositories": len(set(labels.groups)),
        "folds": folds,
        "repeats": repeats,
        "models": models,
        "calibration": metrics.calibration_table(runs[0].calibrated[:, 0], score),
        "curve": curve,
        "importance": importance,
        "dimensions": {
            name: float(np.mean([metrics.spearman(one.raw[:, t], labels.targets[:, t]) for one in runs]))
            for t, name in enumerate(labels.names)
            if name in DIMENSIONS
        },
        "languages": _by_language(runs[0].raw[:, 0], score, languages),
    }
    return runs[0], figures


RANKING = ("spearman", "auc_3", "auc_4")


def _forms(one: OutOfFold) -> Forms:
    return one.raw[:, 0], one.calibrated[:, 0]


def _measure(forms: Forms, score: metrics.Vector) -> dict[str, float]:
    ranking, points = (metrics.measure(form, score) for form in forms)
    return {name: (ranking if name in RANKING else points)[name] for name in metrics.MEASURES}


def _figures(
    found: list[Forms], score: metrics.Vector, groups: tuple[str, ...], languages: list[str]
) -> dict[str, dict[str, float]]:
    """Means over the deals, and the interval of the first one moved to that mean."""
    each = [_measure(forms, score) for forms in found]
    bounds = [metrics.intervals(form, score, groups) for form in found[0]]
    result = {}
    for name in metrics.MEASURES:
        mean = float(np.mean([one[name] for one in each]))
        low, high = (mean + bound - each[0][name] for bound in bounds[name not in RANKING][name])
        spread = float(np.std([one[name] for one in each]))
        result[name] = {"mean": mean, "low": low, "high": high, "over_deals": spread}
    inside = [metrics.within(ranking, score, languages) for ranking, _ in found]
    result["within_language"] = {"mean": float(np.mean(inside)), "over_deals": float(np.std(inside))}
    return result


def _by_language(predicted: metrics.Vector, score: metrics.Vector, languages: list[str]) -> dict[str, dict[str, float]]:
    names = np.array(languages)
    return {
        name: {
            "labels": int((names == name).sum()),
            "judged": float(score[names == name].mean()),
            "spearman": metrics.spearman(predicted[names == name], score[names == name]),
        }
        for name in sorted(set(languages))
    }
