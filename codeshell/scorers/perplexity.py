"""Perplexity: what a document costs, per byte, under an n-gram model of good code, one of bad code, and the difference.

A model of good code says how usual a document is; the report drops what has a high perplexity, and so does CCNet. A
model of bad code works the other way: what has a low perplexity under it is bad (Jansen et al. 2022). The difference of
the two, `contrast`, agrees best with judged quality (docs/quality.md). All are in bits per byte of UTF-8, because bits
per unit reward what the vocabulary cuts finely.

A document that a model was trained on scores far too well. A model of the corpus itself is therefore two models, each
of one half of the documents, and each document is scored by the model of the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.engine.files import make_directory, read_json, remove_quietly, user_path, write_json
from codeshell.errors import UserError
from codeshell.ngram.model import LanguageModel, Scores, score_all
from codeshell.randomness import draw

if TYPE_CHECKING:
    from codeshell.documents.corpus import Corpus
    from codeshell.engine import Engine
    from codeshell.ngram.training import Settings

SHIPPED = Path(__file__).resolve().parents[1] / "ngram" / "models"
"""Models that come with the package: LANGUAGE.good.lm and LANGUAGE.bad.lm."""

MODELS = 32
"""Models that a worker holds at a time; those that were used last stay."""

LEAST_BYTES = 1 << 20
"""Text of a language in the corpus from which a model of it is trained. With less, a model knows hardly more than the
documents that it is not to have seen."""

MOST_BYTES = 128 << 20
"""Text that one of the two models of a language is trained on at most, a sample by document id."""

HALVES = 2

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

    version = 1
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
        self._home: Path | None = None
        if good == "corpus":
            from codeshell.ngram.training import Settings

            self._settings = Settings(order=order, vocabulary=vocabulary, memory=memory)
            self._settings.check()

    def fit(self, corpus: Corpus, home: Path, engine: Engine) -> None:
        """Train two models of each language with enough text, if `good` is "corpus": see the module.

        Each language's texts are written below `home`, by halves, and read twice by the trainer; what is finished is
        kept after a kill.
        """
        if self._good.name != "corpus":
            return
        sizes = {name: size for name, size in corpus.languages.items() if size >= LEAST_BYTES}
        names = [(language, half) for language in sizes for half in range(HALVES)]
        todo = [item for item in names if not _half_path(home, *item).exists()]
        if todo:
            texts = make_directory(home / "texts")
            spooled = _spool(corpus, sizes, set(todo), texts)
            # Each of the two has a vocabulary of its own: it knows no more words of the other half than n-grams.
            work = [(str(spooled[item]), str(_half_path(home, *item)), item[1]) for item in todo if item in spooled]
            for _ in engine.map(partial(_train, self._settings), work):
                pass
            for leftover in texts.iterdir():
                remove_quietly(leftover)
            texts.rmdir()
        done = [[language, half] for language, half in names if _half_path(home, language, half).exists()]
        write_json(home / "models.json", {"models": done})

    def load(self, home: Path) -> None:
        """Take the models that `fit` wrote."""
        if self._good.name == "corpus":
            self._home = home
            self._trained = {tuple(item) for item in read_json(home / "models.json")["models"]}

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
            texts = batch["text"].take(pa.array(rows))
            scores = score_all(models, texts)
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
            ids = batch["id"].take(pa.array(rows)).to_pylist()
            halves = np.array([half_of(identity) for identity in ids], np.int64)
            for half in range(HALVES):
                # The model of the other half.
                yield self._trained_model(language, 1 - half), bad, rows[halves == half]

    def _trained_model(self, language: str, half: int) -> LanguageModel | None:
        if self._home is None:
            raise UserError("good 'corpus': the models are trained by a run; give a path to score without one")
        if (language, half) not in self._trained:
            return None
        return _open(str(_half_path(self._home, language, half)))


def half_of(identity: str) -> int:
    """Which half of the corpus a document is in, by its id alone."""
    return draw(identity, "perplexity half") & 1


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
    return LanguageModel.load(path)


def _half_path(home: Path, language: str, half: int) -> Path:
    return home / f"{quote(language, safe='+# ')}.{half}.lm"


class _Spooled:
    """The texts of a file that `_spool` wrote, anew for each call: what the trainer takes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> Iterator[pa.Array]:
        with pa.memory_map(str(self._path)) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number).column(0)


def _spool(
    corpus: Corpus, sizes: Mapping[str, int], wanted: set[tuple[str, int]], folder: Path
) -> dict[tuple[str, int], Path]:
    """Write the texts of each language and half to a file of its own, in the order of the corpus, in one reading.

    Of a language with more than `MOST_BYTES` per half, a sample: each document by a hash of its id.
    """
    paths: dict[tuple[str, int], Path] = {}
    schema = pa.schema([("text", pa.large_string())])
    with ExitStack() as files:
        writers: dict[tuple[str, int], Any] = {}
        for shard in corpus.shards:
            for table in corpus.read(shard):
                chosen: dict[tuple[str, int], list[int]] = {}
                rows = zip(table["id"].to_pylist(), table["language"].to_pylist(), strict=True)
                for row, (identity, language) in enumerate(rows):
                    item = (language, half_of(identity))
                    if item in wanted and _sampled(identity, sizes[language]):
                        chosen.setdefault(item, []).append(row)
                for item, some in chosen.items():
                    if item not in writers:
                        paths[item] = folder / f"{quote(item[0], safe='+# ')}.{item[1]}.arrow"
                        writers[item] = files.enter_context(pa.ipc.new_file(str(paths[item]), schema))
                    texts = table["text"].take(pa.array(some)).cast(pa.large_string()).combine_chunks()
                    writers[item].write_batch(pa.record_batch([texts], schema=schema))
    return paths


def _train(settings: Settings, work: tuple[str, str, int]) -> None:
    """Train one model, in a worker, and delete its texts."""
    from codeshell.ngram.training import train

    texts, model, half = work
    train(_Spooled(Path(texts)), model, settings, metadata={"half": half})
    remove_quietly(Path(texts))


def _sampled(identity: str, size: int) -> bool:
    """Whether a document of a language of this size is trained on."""
    limit = HALVES * MOST_BYTES
    return size <= limit or draw(identity, "perplexity sample") * size < limit << 64
