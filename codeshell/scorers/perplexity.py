"""Perplexity: what a document costs, per byte, under an n-gram model of good code, one of bad code, and the difference.

A model of good code says how usual a document is; the report drops what has a high perplexity, and so does CCNet. A
model of bad code works the other way: what has a low perplexity under it is bad (Jansen et al. 2022). The difference of
the two, `contrast`, agrees best with judged quality (docs/quality.md). All are in bits per byte of UTF-8, because bits
per unit reward what the vocabulary cuts finely.

A document that a model was trained on scores far too well. A model of the corpus itself is therefore two models, each
of one half of the documents, and each document is scored by the model of the other half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.engine.files import user_path
from codeshell.environment import thread_count
from codeshell.errors import UserError
from codeshell.ngram import crossfit
from codeshell.ngram.model import LanguageModel, Line, Scores, score_all
from codeshell.ngram.training import Settings, Units

if TYPE_CHECKING:
    from codeshell.documents.corpus import Corpus
    from codeshell.engine import Engine

SHIPPED = Path(__file__).resolve().parents[1] / "ngram" / "models"
"""Models that come with the package: LANGUAGE.good.lm and LANGUAGE.bad.lm."""

MODELS = 512
"""Models that a worker holds at a time, more than a corpus has. They are mapped, so that workers share their pages."""

HASHED_BYTES = 32 << 20
"""What is hashed of both ends of a model file; see `_digest`."""

_Model: TypeAlias = "LanguageModel | None"


class Perplexity:
    """The columns below, of models of good and of bad code for each language.

    Args:
        good: "shipped" for the package's models; "corpus" to train on the corpus itself; the path of a model for every
            language; a folder with LANGUAGE.lm or LANGUAGE.good.lm; or "" for none.
        bad: the same for bad code, without "corpus"; a folder may have LANGUAGE.bad.lm.
        order: longest n-gram of models that are trained on the corpus.
        vocabulary: ids of these.
        minimum_tokens: documents with fewer units have no score: short ones score high whatever they are.
        memory: bytes for training.
    """

    version: int | str = 1
    """With a hash of the models, once it is made: another model scores again."""
    absent: ClassVar = {"bits_per_byte": "fewer units than minimum_tokens, or no model of the language"}
    columns = pa.schema(
        [
            ("tokens", pa.int64()),
            ("bits_per_byte", pa.float64()),
            ("bad_bits_per_byte", pa.float64()),
            ("contrast", pa.float64()),
        ]
    )
    """`tokens`: lexical units; null without a model for the language. `bits_per_byte`: under the model of good code.
    `bad_bits_per_byte`: under that of bad code. `contrast`: bad - good; higher is better. Null without a model and for
    a document with fewer than `minimum_tokens`."""

    def __init__(
        self,
        *,
        good: str = "shipped",
        bad: str = "shipped",
        order: int = 3,
        vocabulary: int = 4096,
        minimum_tokens: int = 100,
        memory: int = 1 << 30,
    ) -> None:
        if bad == "corpus":
            raise UserError("bad 'corpus': a corpus is no sample of bad code; give a model, a folder or shipped")
        for name, value in (("good", good), ("bad", bad)):
            if not isinstance(value, str):
                raise UserError(f"{name} {value!r}: give a path, shipped, or an empty text for no model")
        if not good and not bad:
            raise UserError("good and bad: both empty, so there is nothing to score; give one")
        if not isinstance(minimum_tokens, int) or minimum_tokens < 1:
            raise UserError(f"minimum_tokens {minimum_tokens!r}: give a whole number from 1")
        self._minimum = minimum_tokens
        self._good, self._bad = _Place(good, "good"), _Place(bad, "bad")
        self._fitted: crossfit.Fitted | None = None
        self._settings: Settings | None = None
        if good == "corpus":
            self._settings = Settings(order=order, vocabulary=vocabulary, memory=memory, threads=thread_count(0))
            self._settings.check()
        self.version = f"{type(self).version}-{_digest([*self._good.files(), *self._bad.files()])}"

    def fit(self, corpus: Corpus, home: Path, engine: Engine) -> None:
        """Train two models of each language of the corpus, if `good` is "corpus"; see `codeshell.ngram.crossfit`.

        They have the units of the language's model of bad code, without which `contrast` would compare the units.
        """
        if self._settings is None:
            return
        bad = {language: self._bad.model(language) for language in corpus.languages}
        units = {
            language: Units.deserialize(model.handle.units.serialize())
            for language, model in bad.items()
            if model is not None and model.handle.units.kind == "lexical"
        }
        crossfit.fit(corpus, home, self._settings, units=units)

    def load(self, home: Path) -> None:
        """Take the models that `fit` wrote."""
        if self._settings is not None:
            self._fitted = crossfit.read(home)

    def score(self, batch: pa.Table) -> Mapping[str, Any]:
        """See `codeshell.scorers.Scorer`. Documents are scored by language, so that few tables are in use at a time."""
        count = batch.num_rows
        columns = {"tokens": np.full(count, -1, np.int64)}
        for name in ("bits_per_byte", "bad_bits_per_byte"):
            columns[name] = np.full(count, np.nan)
        for good, bad, rows in self._groups(batch):
            models = [model for model in (good, bad) if model is not None]
            if not models:
                continue
            # (rows,) of this group; each document's scores do not depend on the others.
            scores = score_all(models, batch["text"], rows=rows)
            columns["tokens"][rows] = scores[0].tokens
            for name, model in (("bits_per_byte", good), ("bad_bits_per_byte", bad)):
                if model is not None:
                    columns[name][rows] = self._bits(scores[models.index(model)])
        contrast = columns["bad_bits_per_byte"] - columns["bits_per_byte"]
        tokens = columns.pop("tokens")
        found = {name: pa.array(values, pa.float64(), from_pandas=True) for name, values in columns.items()}
        found["contrast"] = pa.array(contrast, pa.float64(), from_pandas=True)
        found["tokens"] = pa.array(tokens, pa.int64(), mask=tokens < 0)
        return found

    def lines(self, batch: pa.Table) -> list[list[Line]]:
        """What each line of each document costs under the model that its `bits_per_byte` are of; for `codeshell
        explain --lines`. A document without such a model has no lines."""
        found: list[list[Line]] = [[] for _ in range(batch.num_rows)]
        for good, bad, rows in self._groups(batch):
            model = good or bad
            for row in rows.tolist() if model is not None else ():
                found[row] = model.lines(batch["text"][row].as_py()) if model is not None else []
        return found

    def _bits(self, scores: Scores) -> NDArray[np.float64]:
        """Bits per byte; NaN, which becomes null, for documents that are too short."""
        return np.where(scores.tokens >= self._minimum, scores.bits_per_byte, np.nan)

    def _groups(
        self, batch: pa.Table
    ) -> Iterator[tuple[LanguageModel | None, LanguageModel | None, NDArray[np.int64]]]:
        """The models of good and bad code, and the rows that they score."""
        languages = pc.dictionary_encode(batch["language"].combine_chunks())
        codes = languages.indices.to_numpy(zero_copy_only=False)
        for code, language in enumerate(languages.dictionary.to_pylist()):
            rows = np.flatnonzero(codes == code)
            bad = self._bad.model(language)
            if self._good.name != "corpus":
                yield self._good.model(language), bad, rows
                continue
            halves = crossfit.halves(batch["id"].take(pa.array(rows)))
            for half in range(2):
                yield self._fitted_model(language, half), bad, rows[halves == half]

    def _fitted_model(self, language: str, half: int) -> LanguageModel | None:
        """The model for documents of this half, which has not seen them."""
        if self._fitted is None:
            raise UserError("good 'corpus': the models are trained by a run; give a path to score without one")
        path = self._fitted.path(language, half)
        return None if path is None else _open(str(path))


class _Place:
    """Where the models of one kind are: a file for every language, a folder, or nothing."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self._kind = name, kind
        self._path = SHIPPED if name == "shipped" else user_path(name)
        self._single = False
        if name in ("", "shipped", "corpus"):
            return
        if self._path.is_file():
            _open(str(self._path))  # a bad file is told before any document is read
            self._single = True
        elif not self._path.is_dir():
            raise UserError(f"{kind} {name}: no such model or folder; give one, or shipped")
        elif not any(self._path.glob("*.lm")):
            raise UserError(f"{kind} {name}: no LANGUAGE.lm in this folder; train one with codeshell lm train")

    def files(self) -> list[Path]:
        """All models of the place, in the order of their names."""
        if self.name in ("", "corpus"):
            return []
        return [self._path] if self._single else sorted(self._path.glob("*.lm"))

    def model(self, language: str) -> LanguageModel | None:
        if self.name in ("", "corpus"):
            return None
        if self._single:
            return _open(str(self._path))
        # In a folder of one kind the name of the language is enough; in one of both, the kind comes first.
        for ending in (f".{self._kind}.lm", ".lm"):
            path = self._path / f"{quote(language, safe='+# ')}{ending}"
            if path.is_file():
                return _open(str(path))
        return None


@lru_cache(MODELS)
def _open(path: str) -> LanguageModel:
    return LanguageModel.load(path, "mapped")


def _digest(paths: Iterable[Path]) -> str:
    """A hash of models: of the whole file, or of both ends of one that is too long to be read at each start."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with open(path, "rb") as file:
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode("utf-8", "surrogatepass"))
            digest.update(file.read(HASHED_BYTES))
            if size > 2 * HASHED_BYTES:
                file.seek(size - HASHED_BYTES)
            digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()
