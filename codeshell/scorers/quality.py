"""The scorer `quality`: the learned score of a document, 0 to 5, and its four dimensions.

It reads columns of other scorers by name and the text; which columns, the model says. docs/quality.md describes how it
was trained and what it is worth; its card lies beside the model.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from codeshell.boosting.quality_model import SHIPPED, QualityModel, matrix
from codeshell.errors import UserError
from codeshell.scorers.text import SCORES


class Quality:
    """Columns `quality` (0 to 5) and those of `correctness`, `readability`, `security` and `value` that the model has.

    Args:
        model: a file that `codeshell quality train` wrote; empty: the model of the package.
    """

    version: int | str = 1

    def __init__(self, model: str = "") -> None:
        if not isinstance(model, str):
            raise UserError(f"score.settings of quality: model is {model!r}, no path; name a file")
        self.model = QualityModel.load(Path(model) if model else SHIPPED)
        # A run scores again when the model changes.
        self.version = f"{type(self).version}.{self.model.about.get('fingerprint', '')}"
        self.columns = pa.schema([(target, pa.float64()) for target in self.model.targets])
        have = {*SCORES.names, "bytes"}
        self.needs = [column for column in self.model.columns if column not in have]

    def score(self, batch: pa.Table) -> dict[str, pa.Array]:
        """The columns of a batch; null for a document without a text."""
        texts = batch["text"]
        # Arrow makes the list of names anew each time that it is asked for.
        names = frozenset(batch.column_names)
        missing = [column for column in self.model.columns if column not in names]
        if missing:
            raise UserError(
                f"scorer quality: no column {missing[0]!r} in the batch; name the scorer that gives it first"
            )
        predicted = self.model.predict(matrix(batch, self.model.columns), texts)
        return {target: pa.array(predicted[:, t]) for t, target in enumerate(self.model.targets)}
