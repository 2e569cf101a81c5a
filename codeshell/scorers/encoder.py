"""The scorer `encoder`: a BERT's score for the documents about which the trees are not sure, joined with theirs.

The trees score a document in microseconds and an encoder in a tenth of a second or more (docs/quality.md), so the
encoder reads only the uncertain band: documents whose `quality` lies near the threshold at which `select` cuts. Far
from the threshold a better score would not change the decision. The band is fixed by the settings and the model, so
a document's columns depend on that document alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from codeshell.engine.files import user_path
from codeshell.errors import UserError

SHARE = 0.5
"""The share of the documents, by the labels' distribution, that the default band holds: it halves the cost."""


class EncoderScorer:
    """Scores of a trained encoder model in the uncertain band of the trees' score.

    Args:
        model: folder that `codeshell quality train LABELS --encoder DIR` wrote.
        threshold: the limit of `quality` (or of `joined_quality`) in `select`, the middle of the band.
        band: half width of the band, in points of the score; 5 reads every document.
        share: instead of `band`: so wide that this share of the documents lies in it, as the labels' scores are
            distributed. Default: 0.5.
        encoder: the encoder's directory, if it has moved since the training.

    Raises:
        UserError: no such model or encoder, transformers is not installed, or a setting out of its range.
    """

    version: int | str = 1
    columns = pa.schema([("encoder_quality", pa.float64()), ("joined_quality", pa.float64())])
    """`encoder_quality`: 0 to 5; null outside the band. `joined_quality`: the mix of both inside the band, the trees'
    `quality` outside; null only where that is null."""
    needs: Sequence[str] = ("quality",)

    def __init__(
        self,
        model: str = "",
        threshold: float = 2.5,
        band: float | None = None,
        share: float | None = None,
        encoder: str = "",
    ) -> None:
        if not isinstance(model, str) or not model:
            raise UserError("score.settings of encoder: model is missing; name the folder of a trained encoder model")
        if band is not None and share is not None:
            raise UserError("score.settings of encoder: band and share: give one of them")
        for name, value, high in (("threshold", threshold, 5.0), ("band", band, 5.0), ("share", share, 1.0)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0.0 <= value <= high):
                raise UserError(f"score.settings of encoder: {name} {value!r} is not in 0 … {high:g}")
        from codeshell.scorers import encoder_model

        self.model = encoder_model.load(user_path(model), encoder)
        self.version = f"1-{self.model.version}"
        self.threshold = float(threshold)
        self.half_width = (
            float(band) if band is not None else self.model.half_width(threshold, SHARE if share is None else share)
        )

    def score(self, batch: pa.Table) -> dict[str, Any]:
        """See `codeshell.scorers.Scorer`."""
        quality = np.array([np.nan if q is None else q for q in batch["quality"].to_pylist()], np.float64)
        # A comparison with NaN is false: a document without a score of the trees is not read.
        rows = np.flatnonzero(np.abs(quality - self.threshold) <= self.half_width)
        own = np.full(len(quality), np.nan)
        joined = quality.copy()
        if len(rows):
            some = batch.select(["text", "language"]).take(pa.array(rows))
            vectors = self.model.encoder.embed(some["text"].to_pylist(), some["language"].to_pylist())
            own[rows] = self.model.head(vectors)[:, 0]
            joined[rows] = self.model.mix.join(quality[rows], own[rows])
        return {
            "encoder_quality": pa.array(own, from_pandas=True),
            "joined_quality": pa.array(joined, from_pandas=True),
        }
