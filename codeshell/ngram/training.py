"""Trains n-gram models from texts: the vocabulary, the counts, and the file.

The text is read twice, once to find the commonest words and once to count; units without a vocabulary of words (bytes,
BPE, or those of another model) need only the second reading. Memory is bounded whatever the text, and the model is the
same bytes for any number of threads, any memory and any batches.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from codeshell import _C
from codeshell.documents.texts import TextBuffers, Texts, cut, text_buffers
from codeshell.engine.files import atomic_path, disk_error
from codeshell.errors import UserError

Units: TypeAlias = _C.ngram.Units
"""What a text is cut into; see csrc/ngram/units.h."""

KINDS = ("lexical", "bpe", "bytes")
"""Kinds of units that can be trained."""

ORDERS = (1, 6)
LEAST_MEMORY = 256 << 20
PROCESS_MEMORY = 160 << 20
"""Bytes of the limit that are left to Python, Arrow and the text in work: about twice what they take."""

MOST_IDS = 1 << 20
"""Ids of a model at most, so that an n-gram of any order is a number of 128 bits."""

LEAST_OCCURRENCES = 3
"""Words of the vocabulary occur so often at least. Rarer ones show the model what their classes are used like."""


@dataclass(frozen=True)
class Settings:
    """How a model is trained. The defaults are what docs/quality.md found best for scoring code."""

    order: int = 3
    """Longest n-gram, 1 to 6."""
    units: str = "lexical"
    """One of `KINDS`."""
    vocabulary: int = 4096
    """Ids of lexical units, classes and marks (128) included. 4,096 fit in 12 bits: five of them in a 64-bit number."""
    prune: tuple[int, ...] = ()
    """For each order: n-grams that occur this often or less are left out. The last one counts for all higher orders."""
    memory: int = 1 << 30
    """Bytes that the process may take."""
    threads: int = 1
    quantize: bool = False
    """Write probabilities as 8-bit codes: a third of the size."""
    keep_words: bool = False
    """Keep the n-grams' words in the model, so that it can be written as ARPA later."""

    def check(self) -> None:
        """Raise a `UserError` that names the setting and the remedy if one is out of range."""
        if not ORDERS[0] <= self.order <= ORDERS[1]:
            raise UserError(f"order {self.order}: give 1 to 6; 3 is as good as 5 for scoring code, and smaller")
        if self.units not in KINDS:
            raise UserError(f"units {self.units!r}: there are none; give {', '.join(KINDS)}")
        fixed = Units.fixed("lexical")
        if not fixed <= self.vocabulary <= MOST_IDS:
            raise UserError(f"vocabulary {self.vocabulary}: give {fixed} to {MOST_IDS}; {fixed} are classes and marks")
        rising = all(a <= b for a, b in zip(self.prune, self.prune[1:], strict=False))
        if len(self.prune) > self.order or not rising or min(self.prune, default=0) < 0 or (self.prune or (0,))[0]:
            given = " ".join(map(str, self.prune))
            raise UserError(f"prune {given}: give at most {self.order} numbers that do not fall, the first 0, as 0 0 1")
        if self.memory < LEAST_MEMORY:
            raise UserError(f"memory {self.memory}: too little; give {LEAST_MEMORY >> 20}MiB or more")
        if not 1 <= self.threads <= 1024:
            raise UserError(f"threads {self.threads}: give 1 to 1024")


@dataclass(frozen=True)
class Summary:
    """What training found."""

    documents: int
    tokens: int
    """Units, with one end for each document."""
    bytes: int
    types: int
    """Different words of the text; 0 where they were not counted."""
    covered: float
    """Share of the words' occurrences that have an id of their own; 0 where they were not counted."""
    units: int
    """Ids."""
    orders: tuple[dict[str, Any], ...]
    """For each order: `ngrams`, `kept` (after pruning), `counts` (n-grams with the adjusted counts 1 to 4), `discounts`
    (of the counts 1, 2, and 3 and more), and `fallback` (they could not be computed from the counts)."""
    spilled: int
    """Bytes written to temporary files."""


Source: TypeAlias = Texts | Callable[[], Iterable[Texts]]
"""Texts, or a function that gives them anew each time it is called."""


class Vocabulary:
    """Counts words, to choose those with ids of their own. Not for bytes and BPE."""

    def __init__(self, memory: int, threads: int, folder: str | Path) -> None:
        self._counter = _C.ngram.WordCounter(threads, memory, str(folder))

    def add(self, texts: Texts) -> None:
        """Count the words of some documents."""
        for piece in text_buffers(texts):
            for part in cut(piece):
                self._counter.add(part.data, part.offsets)

    def units(self, ids: int) -> tuple[Units, dict[str, int]]:
        """Lexical units with up to `ids` ids, and the counts: `types`, `occurrences`, `covered`. Ends the counting."""
        found = self._counter.commonest(ids - Units.fixed("lexical"), LEAST_OCCURRENCES)
        counts = {name: found[name] for name in ("types", "occurrences", "covered")}
        return Units("lexical", found["words"]), counts


class Trainer:
    """Counts n-grams of documents, and writes a model of them.

    Args:
        units: of the texts.
        memory: bytes for the arrays.
        folder: directory for temporary files, which have no names there: a killed process leaves none.
    """

    def __init__(self, units: Units, settings: Settings, memory: int, folder: str | Path) -> None:
        self.units, self._settings, self._memory, self._folder = units, settings, memory, Path(folder)
        self.bytes = 0
        try:
            self._trainer = _C.ngram.Trainer(
                units, settings.order, list(settings.prune), memory, settings.threads, str(folder)
            )
        except ValueError as error:
            raise UserError(f"order {settings.order}: {error}") from None
        self._encoder: Any = None
        if units.kind == "bpe":
            from codeshell.ngram.bpe import Encoder

            self._encoder = Encoder(units)

    @property
    def documents(self) -> int:
        return int(self._trainer.documents)

    def add(self, texts: Texts) -> None:
        """Count the n-grams of some documents, each a sentence of its own."""
        with _told(self._folder):
            for piece in text_buffers(texts):
                for part in cut(piece):
                    self.bytes += int(part.offsets[-1] - part.offsets[0])
                    self._add(part)

    def _add(self, part: TextBuffers) -> None:
        if self._encoder is None:
            self._trainer.add(part.data, part.offsets)
        else:
            self._trainer.add_ids(*self._encoder.encode(part))

    def write(
        self, model: Path | None, arpa: Path | None = None, metadata: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], ...]:
        """Estimate the model and write it, and the same as ARPA: whole or not at all. Ends the counting.

        Returns:
            `Summary.orders`.
        """
        if not self.documents:
            raise UserError("no text to train on; give files that hold some")
        settings = self._settings
        with contextlib.ExitStack() as files, _told(self._folder):
            orders = self._trainer.estimate()
            written, text = (str(files.enter_context(atomic_path(path))) if path else "" for path in (model, arpa))
            options = _C.ngram.WriterOptions()
            options.quantise, options.keep_words = settings.quantize, settings.keep_words
            # The sorts of the trainer are over, so that half of the memory is free.
            options.memory_bytes = self._memory // 2
            about = {
                **(metadata or {}),
                "order": settings.order,
                "units": self.units.kind,
                # Bits of two models can be compared if this is the same.
                "units_hash": hashlib.blake2b(self.units.serialize(), digest_size=8).hexdigest(),
                "prune": list(settings.prune),
                "documents": self.documents,
                "tokens": int(self._trainer.tokens),
                "bytes": self.bytes,
                "orders": orders,
            }
            self._trainer.write(written, text, json.dumps(about, sort_keys=True), options)
        return tuple(orders)

    @property
    def tokens(self) -> int:
        return int(self._trainer.tokens)

    @property
    def spilled(self) -> int:
        return int(self._trainer.spilled)


def train(
    texts: Source,
    model: str | Path | None,
    settings: Settings | None = None,
    *,
    units: Units | None = None,
    tokenizer: str | Path | None = None,
    arpa: str | Path | None = None,
    metadata: dict[str, Any] | None = None,
) -> Summary:
    """Train a model with modified Kneser-Ney smoothing and write it.

    Args:
        texts: the documents; a function that yields batches of them is called again for each reading, and must give
            the same.
        model: file to write; None only with `arpa`.
        settings: see `Settings`.
        units: of another model, so that the bits of both can be compared; the text is then read once.
        tokenizer: the tokenizer.json of BPE units.
        arpa: file to write in the ARPA format as well.
        metadata: kept in the model; JSON.

    Raises:
        UserError: a setting out of range, no text, or a disk that is full.
    """
    settings = settings or Settings()
    settings.check()
    paths = [Path(path) if path is not None else None for path in (model, arpa)]
    folder = next((path.parent for path in paths if path is not None), Path(tempfile.gettempdir()))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory; make it, or write elsewhere")
    memory = settings.memory - PROCESS_MEMORY

    def batches() -> Iterator[Texts]:
        yield from texts() if callable(texts) else [texts]

    words = {"types": 0, "occurrences": 0, "covered": 0}
    if units is None:
        if settings.units == "lexical":
            units, words = _commonest(batches(), settings, memory, folder)
        elif settings.units == "bytes":
            units = Units("bytes")
        else:
            from codeshell.ngram.bpe import bpe_units

            units = bpe_units(tokenizer)
    trainer = Trainer(units, settings, memory, folder)
    for batch in batches():
        trainer.add(batch)
        # Or it would be in memory while the next one is read.
        del batch
    orders = trainer.write(paths[0], paths[1], metadata)
    return Summary(
        documents=trainer.documents,
        tokens=trainer.tokens,
        bytes=trainer.bytes,
        types=words["types"],
        covered=words["covered"] / max(1, words["occurrences"]),
        units=len(units),
        orders=orders,
        spilled=trainer.spilled,
    )


def _commonest(batches: Iterator[Texts], settings: Settings, memory: int, folder: Path) -> tuple[Units, dict[str, int]]:
    """What `Vocabulary.units` gives for these texts. The counter ends here: its memory is the trainer's after that."""
    vocabulary = Vocabulary(memory, settings.threads, folder)
    with _told(folder):
        for batch in batches:
            vocabulary.add(batch)
            del batch
        return vocabulary.units(settings.vocabulary)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the system refuses to the C++ as a `UserError` that names the directory."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, folder) from error
