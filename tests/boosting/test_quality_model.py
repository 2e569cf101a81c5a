"""The model file: predictions survive it, and a file that contradicts itself is refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from codeshell.boosting import container, isotonic, linear
from codeshell.boosting.ngrams import rarity_of, train, vectors
from codeshell.boosting.quality_model import KIND, QualityModel, matrix
from codeshell.boosting.trees import Growth, grow
from codeshell.errors import UserError
from codeshell.randomness import uniform


def model(head: bool = True) -> tuple[QualityModel, np.ndarray, list[str]]:
    rows = uniform(1, 0, 600).reshape(200, 3)
    rows[::7, 1] = np.nan
    texts = [f"word{i % 13} = {i}\n" * (1 + i % 5) for i in range(200)]
    targets = np.stack([5 * rows[:, 0], 2.5 + 0 * rows[:, 0] + (np.arange(200) % 13) / 13], axis=1)
    found = vectors(texts, 10, 100)
    # The head has a target more than the model: it is the last column of the trees.
    extra = np.concatenate([targets, np.sign(targets[:, :1] - 2)], axis=1)
    ngram_head = train(found, rarity_of(found), extra, np.ones(200), 1.0) if head else None
    seen = rows if ngram_head is None else np.concatenate([rows, ngram_head.predict(texts)[:, 2:]], axis=1)
    ensemble = grow(seen, targets, Growth(trees=20))
    lines = tuple(isotonic.fit(uniform(t, 0, 200), targets[:, t], 0, 5) for t in range(2))
    built = QualityModel(
        columns=("a", "b", "c"),
        targets=("quality", "value"),
        trees=ensemble,
        head=ngram_head,
        linear=linear.train(rows, targets, 1.0),
        head_share=0.5,
        linear_share=0.25,
        centre=np.zeros((3, 2)),
        spread=np.full((3, 2), 5.0),
        calibrations=lines,
        about={"scorers": {"one": "1"}},
    )
    return built, rows, texts


@pytest.mark.parametrize("head", [True, False])
def test_a_loaded_model_predicts_the_same_bits(tmp_path: Path, head: bool) -> None:
    built, rows, texts = model(head)
    built.save(tmp_path / "m")
    loaded = QualityModel.load(tmp_path / "m")
    assert loaded.columns == built.columns
    assert loaded.about == built.about
    found = loaded.predict(rows, texts)
    assert found.shape == (200, 2)
    assert (found == built.predict(rows, texts)).all()
    assert found.min() >= 0
    assert found.max() <= 5
    # A document's score does not depend on those beside it.
    assert (np.concatenate([loaded.predict(rows[i : i + 1], texts[i : i + 1]) for i in range(50)]) == found[:50]).all()


CHANGES: list[tuple[str, Any]] = [
    ("columns", ("a", "b")),
    ("columns", ("a", "b", "b")),
    ("targets", ("value", "quality")),
    ("targets", ("quality", "beauty")),
    ("targets", ("quality",)),
    ("centre", np.zeros((3, 3))),
    ("centre", np.full((3, 2), np.nan)),
    ("spread", np.zeros((3, 2))),
    ("linear", linear.Linear(np.zeros(2), np.ones(2), np.zeros((2, 2)), np.zeros(2))),
    ("linear", linear.Linear(np.zeros(3), np.zeros(3), np.zeros((3, 2)), np.zeros(2))),
    ("head_share", 1e400),
    ("head", None),
    ("calibrations", (isotonic.Calibration(np.zeros(2), np.zeros(2)),) * 2),
    ("calibrations", (isotonic.Calibration(np.arange(2.0), np.array([1.0, 0.0])),) * 2),
    ("calibrations", (isotonic.Calibration(np.arange(2.0), np.array([0.0, 6.0])),) * 2),
    ("calibrations", (isotonic.Calibration(np.empty(0), np.empty(0)),) * 2),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_a_model_that_contradicts_itself(tmp_path: Path, field: str, value: Any, monkeypatch: Any) -> None:
    built, _, _ = model()
    bad = dataclasses.replace(built, **{field: value})
    # JSON has no infinity, and `save` refuses it; a foreign file may still hold one.
    if field == "head_share":
        with pytest.raises(ValueError, match="JSON"):
            bad.save(tmp_path / "m")
        return
    if field == "targets" and len(value) == 1:
        bad = dataclasses.replace(bad, calibrations=built.calibrations[:1])
    bad.save(tmp_path / "m")
    with pytest.raises(UserError, match=r"contradicts itself|not a readable") as error:
        QualityModel.load(tmp_path / "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["trees.feature", "trees.left", "head.rarity", "head.weights", "raw.value", "centre"])
def test_a_missing_or_misshapen_array(tmp_path: Path, name: str) -> None:
    built, _, _ = model()
    built.save(tmp_path / "m")
    found = container.load(tmp_path / "m", KIND, "")
    for change in ({}, {name: np.zeros((1, 1, 1))}, {name: found.arrays[name].astype(np.int64)}):
        arrays = {**{key: value for key, value in found.arrays.items() if key != name}, **change}
        container.save(tmp_path / "m", KIND, found.meta, arrays)
        if change and change[name].dtype == found.arrays[name].dtype and change[name].shape == found.arrays[name].shape:
            continue
        with pytest.raises(UserError):
            QualityModel.load(tmp_path / "m")


def test_the_matrix_of_a_table() -> None:
    table = pa.table(
        {
            "i": pa.array([1, None, 3]),
            "b": pa.array([True, False, None]),
            "f": pa.array([0.5, float("inf"), float("nan")]),
            "s": ["x", "y", "z"],
        }
    )
    found = matrix(table, ["f", "b", "i"])
    np.testing.assert_array_equal(found, [[0.5, 1, 1], [np.nan, 0, np.nan], [np.nan, np.nan, 3]])
    assert matrix(table.slice(0, 0), ["i", "b"]).shape == (0, 2)
    with pytest.raises(KeyError):
        matrix(table, ["missing"])
