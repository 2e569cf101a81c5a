"""The learned quality score: trees and a linear score on columns, a head on the text; mixed, calibrated, in one file.

    raw     = (tree score - centre) / spread + the same of the head and of a linear score, times their shares
    quality = the calibrated line of pieces at `raw`, between 0 and 5

The same for each dimension. Everything a model needs to be applied is in its file: the names of its columns in order,
the scorers that give them and their versions, trees, weights, knots. Prediction has the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.boosting import container
from codeshell.boosting.isotonic import Calibration
from codeshell.boosting.linear import Linear
from codeshell.boosting.ngrams import NgramHead
from codeshell.boosting.trees import Ensemble, Evaluator
from codeshell.documents.texts import Texts
from codeshell.errors import UserError

DIMENSIONS = ("correctness", "readability", "security", "value")
"""What the report's annotators judge beside the score."""

SCORE = "quality"
LOW, HIGH = 0.0, 5.0

SHIPPED = Path(__file__).parent / "models" / "quality.model"
"""The model of the package; its card lies beside it."""

KIND = "quality model"
REMEDY = "train one with `codeshell quality train LABELS -o MODEL`"


@dataclass(frozen=True)
class QualityModel:
    """A trained model. Rows of arrays are documents; columns of predictions are `targets`."""

    columns: tuple[str, ...]
    """Names of the columns that the trees read, in order."""
    targets: tuple[str, ...]
    """`quality`, then those of `DIMENSIONS` that the labels had."""
    trees: Ensemble
    head: NgramHead | None
    """None: trees alone. If its weights have a target more than the model, the last one tells good from bad reference
    code, and the trees read that score as their last column."""
    linear: Linear | None
    head_share: float
    linear_share: float
    """Weights of the two scores, where that of the trees is 1."""
    centre: NDArray[np.float64]
    """(3, targets): what is subtracted from the scores of trees, head and linear score."""
    spread: NDArray[np.float64]
    """(3, targets): what they are divided by."""
    calibrations: tuple[Calibration, ...]
    """One for each target."""
    about: Mapping[str, Any]
    """What the card says, and `scorers`: name to version of those that gave the columns."""

    @cached_property
    def _evaluator(self) -> Evaluator:
        return self.trees.evaluator()

    def raw(self, rows: NDArray[np.float64], texts: Texts) -> NDArray[np.float64]:
        """Mixed scores before calibration: (documents, targets)."""
        head = linear = None
        if self.linear is not None:
            linear = self.linear.predict(rows)
        if self.head is not None:
            both = self.head.predict(texts)
            head, reference = both[:, : len(self.targets)], both[:, len(self.targets) :]
            rows = np.concatenate([rows, reference], axis=1)
        shares = (1.0, self.head_share, self.linear_share)
        return mixed((self._evaluator.predict(rows), head, linear), shares, self.centre, self.spread)

    def predict(self, rows: NDArray[np.float64], texts: Texts) -> NDArray[np.float64]:
        """Scores from 0 to 5.

        Args:
            rows: (documents, columns) float64, NaN for what is missing; see `matrix`.
            texts: the texts of the documents.

        Returns:
            (documents, targets).
        """
        raw = self.raw(rows, texts)
        return np.stack([line(raw[:, t]) for t, line in enumerate(self.calibrations)], axis=1)

    def save(self, path: str | Path) -> None:
        """Write the model, whole or not at all."""
        meta = {
            "columns": list(self.columns),
            "targets": list(self.targets),
            "features": self.trees.features,  # the columns, and perhaps the head's last score
            "head": None if self.head is None else {"bits": self.head.bits, "most_bytes": self.head.most_bytes},
            "linear": self.linear is not None,
            "head_share": self.head_share,
            "linear_share": self.linear_share,
            "about": dict(self.about),
        }
        arrays: dict[str, NDArray[Any]] = {f"trees.{name}": array for name, array in self.trees.arrays().items()}
        if self.head is not None:
            arrays |= {f"head.{name}": array for name, array in self.head.arrays().items()}
        if self.linear is not None:
            arrays |= {f"linear.{name}": array for name, array in self.linear.arrays().items()}
        arrays |= {"centre": self.centre, "spread": self.spread}
        for name, line in zip(self.targets, self.calibrations, strict=True):
            arrays |= {f"raw.{name}": line.raw, f"value.{name}": line.value}
        container.save(path, KIND, meta, arrays)

    @staticmethod
    def load(path: str | Path) -> QualityModel:
        """Read a model and check all of it.

        Raises:
            UserError: one line that names the file: it is missing, damaged, something else, or contradicts itself.
        """
        found = container.load(path, KIND, REMEDY)
        try:
            model = _parsed(found)
            _check(model)
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: a quality model that contradicts itself ({reason}); {REMEDY}") from None
        return model


def mixed(
    scores: Sequence[NDArray[np.float64] | None],
    shares: Sequence[float],
    centre: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Sum of the standard scores times their shares.

    Args:
        scores: (documents, targets) each, of trees, head and linear score; None for a part that is not there.
    """
    parts = [
        share * ((score - centre[place]) / spread[place])
        for place, (score, share) in enumerate(zip(scores, shares, strict=True))
        if score is not None
    ]
    result: NDArray[np.float64] = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _parsed(found: container.Contents) -> QualityModel:
    meta, arrays = found

    def parts_of(prefix: str) -> dict[str, NDArray[Any]]:
        prefix += "."
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    head = None
    if meta["head"] is not None:
        head = NgramHead(int(meta["head"]["bits"]), int(meta["head"]["most_bytes"]), **parts_of("head"))
    targets = tuple(map(str, meta["targets"]))
    return QualityModel(
        columns=tuple(map(str, meta["columns"])),
        targets=targets,
        trees=Ensemble(**parts_of("trees"), features=int(meta["features"])),
        head=head,
        linear=Linear(**parts_of("linear")) if meta["linear"] else None,
        head_share=float(meta["head_share"]),
        linear_share=float(meta["linear_share"]),
        centre=arrays["centre"],
        spread=arrays["spread"],
        calibrations=tuple(Calibration(arrays[f"raw.{name}"], arrays[f"value.{name}"]) for name in targets),
        about=dict(meta["about"]),
    )


def _check(model: QualityModel) -> None:
    """Raise a ValueError for a model that could not be applied: its file may be foreign."""
    count = len(model.targets)
    if not count or model.targets[0] != SCORE or not set(model.targets[1:]) <= set(DIMENSIONS):
        raise ValueError("its targets are not quality and its dimensions")
    if len(set(model.targets)) != count or len(set(model.columns)) != len(model.columns):
        raise ValueError("a name occurs twice")
    extra = model.trees.features - len(model.columns)
    if extra not in ((0, 1) if model.head is not None else (0,)):
        raise ValueError("its trees read another number of columns")
    if model.trees.values.ndim != 2 or model.trees.values.shape[1] != count:
        raise ValueError("its trees have another number of targets")
    model.trees.evaluator()
    for array in (model.centre, model.spread):
        if array.shape != (3, count) or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError("its standard scores are not (3, targets) numbers")
    if not (model.spread > 0).all() or not np.isfinite([model.head_share, model.linear_share]).all():
        raise ValueError("its standard scores divide by 0")
    if model.linear is not None:
        _check_linear(model.linear, len(model.columns), count)
    if model.head is not None:
        _check_head(model.head, count + extra)
    for line in model.calibrations:
        if line.raw.ndim != 1 or line.raw.shape != line.value.shape or not len(line.raw):
            raise ValueError("a calibration has no knots")
        finite = np.isfinite(line.raw).all() and np.isfinite(line.value).all()
        if not finite or (np.diff(line.raw) <= 0).any() or (np.diff(line.value) < 0).any():
            raise ValueError("a calibration does not ascend")
        if line.value[0] < LOW or line.value[-1] > HIGH:
            raise ValueError("a calibration leaves 0 to 5")


def _check_linear(linear: Linear, columns: int, count: int) -> None:
    shapes = {"centre": (columns,), "spread": (columns,), "weights": (columns, count), "start": (count,)}
    for name, array in linear.arrays().items():
        if array.shape != shapes[name] or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError("an array of its linear score has another shape, or numbers that are none")
    if not (linear.spread > 0).all():
        raise ValueError("its linear score divides by 0")


def _check_head(head: NgramHead, count: int) -> None:
    if not 8 <= head.bits <= 20 or head.most_bytes < 1:
        raise ValueError("its n-grams have an impossible size")
    buckets = 1 << head.bits
    for array, shape, dtype in (
        (head.rarity, (buckets,), np.uint16),
        (head.weights, (buckets, count), np.int16),
        (head.scale, (count,), np.float64),
        (head.start, (count,), np.float64),
    ):
        if array.shape != shape or array.dtype != dtype:
            raise ValueError("an array of its n-grams has another shape")
    if not np.isfinite(head.scale).all() or not np.isfinite(head.start).all():
        raise ValueError("a number of its n-grams is not finite")


def matrix(table: pa.Table, columns: Sequence[str]) -> NDArray[np.float64]:
    """(rows, columns) float64 of numeric and boolean columns; null and infinite become NaN.

    Raises:
        KeyError: the table has no such column.
    """
    result = np.empty((table.num_rows, len(columns)))
    for place, name in enumerate(columns):
        column = table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # a table without rows
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        values = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        result[:, place] = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    # An infinite measure is a measure of nothing, and would compare as larger than all.
    result[np.isinf(result)] = np.nan
    return result
