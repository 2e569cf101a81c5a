"""Models of a corpus's own languages, in halves: each document is scored by the model that has not seen it.

A document that was in the training text scores far too low: its own rare words are what the model expects. So the
documents of each language fall into two halves by a hash of their ids. Each half trains a model, and the model of the
other half scores it. Both have the same units, so that their bits can be compared; of a document, they know no more
than which words are common.

    fit     trains the models of all languages at once, reading the corpus twice
    halves  says which half each document is in
    read    finds the models; `Fitted.path(language, half)` is the model for documents of a half

Only a sample of each language is read into a model, chosen by hash as well: what 64 MB do not say about code, more text
does not say either, and the job must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.engine.files import make_directory, read_json, write_json
from codeshell.errors import UserError, say
from codeshell.ngram.training import LEAST_MEMORY, PROCESS_MEMORY, Settings, Trainer, Units, Vocabulary
from codeshell.randomness import draw

if TYPE_CHECKING:
    from codeshell.documents.corpus import Corpus

MODELS = "models.json"
"""What `fit` writes last: with it, the models are there."""

PURPOSE = "language model"
"""Purpose of the draw that decides a document's half and whether it is in the sample."""

SAMPLE_BYTES = 64 << 20
"""Text of a language that is trained on, about, over both halves."""

LEAST_BYTES = 500_000
"""Languages with less text get no model: it would know little but their commonest words."""

LEAST_TRAINER = 4 << 20
"""Bytes of memory of a trainer at least."""


def draws(ids: Sequence[str] | pa.Array | pa.ChunkedArray, seed: int = 0) -> NDArray[np.uint64]:
    """(n,): 64 bits of each document. The lowest says its half, the others whether it is in a sample."""
    values = ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else ids
    return np.fromiter((draw(seed, one, PURPOSE) for one in values), np.uint64, len(values))


def halves(ids: Sequence[str] | pa.Array | pa.ChunkedArray, seed: int = 0) -> NDArray[np.int8]:
    """(n,): the half that each document trains, 0 or 1. It is scored by the model of the other one."""
    return (draws(ids, seed) & np.uint64(1)).astype(np.int8)


@dataclass(frozen=True)
class Fitted:
    """The models that `fit` trained."""

    home: Path
    files: dict[str, tuple[str, str]]
    """For each language, the model of half 0 and that of half 1, below `home`."""
    left_out: dict[str, int]
    """Languages without a model, and their bytes."""
    statistics: dict[str, Any]
    """For each language: bytes and the share trained on; of both halves documents, bytes, tokens, n-grams by order."""

    def path(self, language: str, half: int) -> Path | None:
        """The model that scores documents of half `half`: the one that the other half trained."""
        files = self.files.get(language)
        return self.home / files[1 - half] if files else None


def read(home: Path) -> Fitted:
    """What `fit` left in `home`.

    Raises:
        UserError: nothing whole is there.
    """
    if not (home / MODELS).is_file():
        raise UserError(f"{home}: holds no language models; run the score stage again")
    tree = read_json(home / MODELS)
    files = {language: (pair[0], pair[1]) for language, pair in tree["files"].items()}
    return Fitted(home, files, tree["left_out"], tree["languages"])


def fit(
    corpus: Corpus,
    home: Path,
    settings: Settings | None = None,
    *,
    units: Mapping[str, Units] | None = None,
    seed: int = 0,
    sample_bytes: int = SAMPLE_BYTES,
    least_bytes: int = LEAST_BYTES,
) -> Fitted:
    """Train two models of each language of the corpus; the same files whatever its shards, threads and memory.

    Files of an earlier fit are overwritten. `MODELS` is written last, so a fit that was killed starts again.

    Args:
        settings: `memory` is shared by all languages.
        units: by language, of the models that the bits are compared with (of bad code, say). Bits of models with
            different units cannot be compared. Other languages get a vocabulary of their own.
        sample_bytes: text of each language to train on, about; the rest is chosen out by hash.
        least_bytes: languages with less text get no model and are reported.
    """
    settings = settings or Settings()
    settings.check()
    make_directory(home)
    (home / MODELS).unlink(missing_ok=True)
    sizes = corpus.languages
    chosen = [language for language, size in sizes.items() if size >= least_bytes]
    left_out = {language: size for language, size in sizes.items() if size < least_bytes}
    if left_out:
        some = ", ".join(sorted(left_out, key=lambda name: -left_out[name])[:5])
        say(
            f"language models: {len(left_out)} languages with less than {least_bytes / 1e6:g} MB of text get none "
            f"({some}{' …' if len(left_out) > 5 else ''})"
        )
    # Below it, a draw's upper bits put a document into the sample.
    limits = {language: min(1.0, sample_bytes / sizes[language]) for language in chosen}
    memory = max(settings.memory, LEAST_MEMORY) - PROCESS_MEMORY
    each = max(LEAST_TRAINER, memory // max(1, 2 * len(chosen)))

    given = {language: one for language, one in (units or {}).items() if language in limits}
    counted = {language: limit for language, limit in limits.items() if language not in given}
    units = {**given, **_units(corpus, counted, settings, memory, home, seed)}
    trainers = {
        language: tuple(Trainer(units[language], settings, each, home) for _ in range(2)) for language in chosen
    }
    for language, half, texts in _samples(corpus, limits, seed):
        trainers[language][half].add(texts)
    files: dict[str, tuple[str, str]] = {}
    languages: dict[str, Any] = {}
    for number, language in enumerate(chosen):
        pair = trainers.pop(language)
        # A half without documents: a language of few huge files. Its documents would be scored by what has seen them.
        if not all(trainer.documents for trainer in pair):
            left_out[language] = sizes[language]
            continue
        names = (f"{number:03d}-0.lm", f"{number:03d}-1.lm")
        orders = [
            trainer.write(home / name, metadata={"language": language, "half": half})
            for half, (name, trainer) in enumerate(zip(names, pair, strict=True))
        ]
        files[language] = names
        languages[language] = {
            "bytes": sizes[language],
            "share": limits[language],
            "documents": [trainer.documents for trainer in pair],
            "trained_bytes": [trainer.bytes for trainer in pair],
            "tokens": [trainer.tokens for trainer in pair],
            "ngrams": [[order["kept"] for order in found] for found in orders],
            "fallback": sorted({place + 1 for found in orders for place, one in enumerate(found) if one["fallback"]}),
        }
    write_json(home / MODELS, {"files": files, "left_out": left_out, "languages": languages})
    return read(home)


def _units(
    corpus: Corpus, limits: dict[str, float], settings: Settings, memory: int, home: Path, seed: int
) -> dict[str, Units]:
    """The units of each language: one vocabulary for both halves."""
    if settings.units != "lexical":
        return {language: Units(settings.units) for language in limits}
    if not limits:
        return {}
    each = max(LEAST_TRAINER, memory // len(limits))
    vocabularies = {language: Vocabulary(each, settings.threads, home) for language in limits}
    for language, _, texts in _samples(corpus, limits, seed):
        vocabularies[language].add(texts)
    return {language: vocabulary.units(settings.vocabulary)[0] for language, vocabulary in vocabularies.items()}


def _samples(corpus: Corpus, limits: dict[str, float], seed: int) -> Iterator[tuple[str, int, pa.ChunkedArray]]:
    """The sampled texts of the languages of `limits`, by language and half."""
    for shard in corpus.shards:
        for table in corpus.read(shard):
            bits = draws(table["id"], seed)
            values = (bits >> np.uint64(1)).astype(np.float64) * 2.0**-63
            half = (bits & np.uint64(1)).astype(np.int8)
            # (n,): the place of each row's language in `names`.
            coded = table["language"].combine_chunks().dictionary_encode()
            coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
            places = np.asarray(coded.indices.fill_null(-1))
            for place, language in enumerate(coded.dictionary.to_pylist()):
                if language not in limits:
                    continue
                for number in (0, 1):
                    rows = np.flatnonzero((places == place) & (half == number) & (values < limits[language]))
                    if len(rows):
                        yield language, number, table["text"].take(pa.array(rows))
