"""Training: it finds what is there, finds nothing where nothing is, and never sees a held-out repository."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.quality_labels import labels, shuffled

from codeshell.boosting.quality_model import QualityModel
from codeshell.boosting.trees import Growth
from codeshell.quality import features, fit, metrics
from codeshell.quality.labels import Labels, read_labels
from codeshell.quality.reference import Reference

SETTINGS = fit.Settings(growth=Growth(trees=40, leaves=6, rate=0.15, column_share=0.3, bins=32), bags=1, bits=10)
COLUMNS = ("comment_share", "docstring_share", "prints", "identifier_length", "spaced_assignments", "type_annotations")


def read(folder: Path, records: list[dict[str, Any]]) -> tuple[Labels, pa.Table]:
    pq.write_table(pa.Table.from_pylist(records), folder / "labels.parquet")
    found = read_labels([str(folder / "labels.parquet")])
    return found, features.columns_of(found.documents, features.scorers_of(["lexical"], {}))


def reference(count: int = 40) -> Reference:
    good, bad = "def add_tax(total_price: float):\n    return total_price * 1.1\n", "def f(q):\n    print(q)\n"
    texts = tuple((good if i % 2 else bad) + f"# {i}\n" for i in range(count))
    sides = np.where(np.arange(count) % 2, 1.0, -1.0)
    return Reference(texts, sides, np.ones(count), {"python": {"good": count // 2, "bad": count // 2}})


@functools.cache
def prepared() -> fit.Prepared:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found, table = read(Path(folder), labels())
    return fit.prepare(found, table, COLUMNS, reference(), SETTINGS)


@functools.cache
def honest() -> fit.OutOfFold:
    data = prepared()
    return fit.out_of_fold(data, SETTINGS, fit.folds_of(data, 4, 0))


def test_what_is_there_is_found() -> None:
    data, found = prepared(), honest()
    score = data.targets[:, 0]
    assert metrics.spearman(found.raw[:, 0], score) > 0.8
    assert metrics.mean_absolute_error(found.calibrated[:, 0], score) < 0.7
    assert metrics.spearman(found.raw[:, 1], data.targets[:, 1]) > 0.7
    # Each habit is a fifth of the score; docstrings are in both of the first two columns.
    assert found.gain[:2].sum() > 0.1 * found.gain.sum()


def test_where_nothing_is_nothing_is_found(tmp_path: Path) -> None:
    found, table = read(tmp_path, shuffled(labels()))
    data = fit.prepare(found, table, COLUMNS, None, SETTINGS)
    result = fit.out_of_fold(data, SETTINGS, fit.folds_of(data, 4, 0))
    assert abs(metrics.spearman(result.raw[:, 0], data.targets[:, 0])) < 0.25


def test_labels_of_a_held_out_repository_change_nothing_of_its_predictions() -> None:
    data = prepared()
    folds = fit.folds_of(data, 4, 0)
    targets = data.targets.copy()
    targets[folds == 2] = 5 - targets[folds == 2]
    other = fit.out_of_fold(dataclasses.replace(data, targets=targets), SETTINGS, folds)
    same = honest()
    held = folds == 2
    assert (other.trees[held] == same.trees[held]).all()
    assert other.head is not None and same.head is not None
    assert (other.head[held] == same.head[held]).all()
    assert (other.trees[~held] != same.trees[~held]).any()


def test_a_model_that_knows_nothing_ranks_nothing() -> None:
    """The mean of the other folds is high where a fold is low: kept, it would turn the ranks around."""
    data = prepared()
    target = np.array([float(ord(group[-1]) % 5) for group in data.groups])[:, None]
    blind = dataclasses.replace(data, targets=target, rows=np.zeros_like(data.rows), reference=None, separator=None)
    settings = dataclasses.replace(SETTINGS, head_share=0.0, linear_share=0.0)
    found = fit.out_of_fold(blind, settings, fit.folds_of(data, 4, 0))
    assert metrics.spearman(fit.with_levels(found, settings)[:, 0], target[:, 0]) < -0.2
    expected = [target[found.folds != fold].mean() for fold in found.folds]
    np.testing.assert_allclose(found.level[:, 0], expected)
    # Less the level nothing is left but the chance of the rows that each tree draws.
    assert np.abs(found.trees - found.level).max() < 0.05 * np.ptp(found.level)


def test_the_level_of_all_labels_is_in_the_model() -> None:
    """Moved by two points, the labels give the same ranks, and the model two points more."""
    data = prepared()
    halved = dataclasses.replace(data, targets=data.targets / 2)
    moved = dataclasses.replace(data, targets=data.targets / 2 + 2)
    predicted = []
    for one in (halved, moved):
        result = fit.out_of_fold(one, SETTINGS, fit.folds_of(one, 4, 0))
        model = fit.train(one, ("quality", "readability"), SETTINGS, result, {})
        texts = [record["text"] for record in labels()]
        predicted.append(model.predict(data.rows[:, : len(COLUMNS)], texts))
        assert abs(predicted[-1].mean() - one.targets.mean()) < 0.15
    np.testing.assert_allclose(predicted[1], predicted[0] + 2, atol=0.1)


def test_the_model_is_what_was_judged(tmp_path: Path) -> None:
    data = prepared()
    model = fit.train(data, ("quality", "readability"), SETTINGS, honest(), {"scorers": {"lexical": "1"}})
    model.save(tmp_path / "m")
    loaded = QualityModel.load(tmp_path / "m")
    texts = [record["text"] for record in labels()]
    rows = data.rows[:, : len(COLUMNS)]
    found = loaded.predict(rows, texts)
    assert metrics.spearman(found[:, 0], data.targets[:, 0]) > 0.9
    assert loaded.about["fingerprint"] == model.about["fingerprint"]
    # The head of the file scores texts as the folds did from their vectors.
    head = fit._train_head(data, np.arange(240), SETTINGS)
    np.testing.assert_allclose(fit._apply_head(head, data.vectors.take(np.arange(240))), head.predict(texts), atol=1e-9)


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    data = prepared()
    for name in ("a", "b"):
        folds = fit.folds_of(data, 4, 0)
        result = honest() if name == "a" else fit.out_of_fold(data, dataclasses.replace(SETTINGS, threads=2), folds)
        settings = SETTINGS if name == "a" else dataclasses.replace(SETTINGS, threads=2)
        fit.train(data, ("quality", "readability"), settings, result, {}).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(("with_reference", "head_share"), [(False, 0.5), (True, 0.0), (False, 0.0)])
def test_parts_that_are_left_out(tmp_path: Path, with_reference: bool, head_share: float) -> None:
    found, table = read(tmp_path, labels(120))
    settings = dataclasses.replace(SETTINGS, head_share=head_share, linear_share=2 * head_share)
    data = fit.prepare(found, table, COLUMNS, reference() if with_reference else None, settings)
    result = fit.out_of_fold(data, settings, fit.folds_of(data, 3, 0))
    model = fit.train(data, found.names, settings, result, {})
    model.save(tmp_path / "m")
    loaded = QualityModel.load(tmp_path / "m")
    predicted = loaded.predict(data.rows[:, : len(COLUMNS)], found.documents["text"])
    assert metrics.spearman(predicted[:, 0], found.score) > 0.6


def test_a_learning_curve_uses_whole_repositories() -> None:
    data = prepared()
    everything = np.arange(240)
    few = fit._fewer(data.groups, everything, 0.25, 0)
    names = {data.groups[row] for row in few.tolist()}
    assert len(few) == sum(group in names for group in data.groups)
    assert 0.25 * 240 <= len(few) <= 0.25 * 240 + 20
