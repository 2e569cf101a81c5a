"""`LanguageModel`: an n-gram model of any kind of file, and the scores that it gives to texts and lines."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents.texts import PIECE_BYTES, TextBuffers, Texts, cut, text_buffers
from codeshell.errors import UserError
from codeshell.ngram import convert

COPIED_BYTES = 256 << 20
"""Up to this size a file is read into memory, on huge pages if the system gives them; a larger one is mapped, so that
all processes of a machine share it."""

BITS = float(np.log2(10))
"""Bits in a unit of log10."""


@dataclass(frozen=True)
class Scores:
    """Scores of texts; all arrays are (texts,). A text is one sentence: <s> w1 … wn </s>."""

    tokens: NDArray[np.int64]
    """Units of each text, without its ends."""
    unknown: NDArray[np.int64]
    """Units among them that are <unk>; lexical units and bytes have none."""
    log10: NDArray[np.float64]
    """Base-10 logarithm of the probability of the text, of its end too if that was asked for."""
    bytes: NDArray[np.int64]
    """UTF-8 bytes."""
    ended: bool
    """Whether </s> is counted."""

    @property
    def bits(self) -> NDArray[np.float64]:
        """What the text costs, in bits."""
        return -self.log10 * BITS

    @property
    def bits_per_byte(self) -> NDArray[np.float64]:
        """Bits over bytes; NaN for an empty text."""
        size = np.where(self.bytes > 0, self.bytes, np.nan)
        return np.asarray(self.bits / size, np.float64)

    @property
    def perplexity(self) -> NDArray[np.float64]:
        """Per word, </s> counted as one, as KenLM and CCNet have it; infinite where it is beyond a float."""
        words = np.maximum(self.tokens + self.ended, 1)
        with np.errstate(over="ignore"):
            return np.asarray(10.0 ** (-self.log10 / words), np.float64)


class Line(NamedTuple):
    """What a line of a text costs."""

    number: int
    """From 1."""
    bytes: int
    """With its line break."""
    bits: float
    """The units that begin in the line; the last line has the end of the text, too."""


class Word(NamedTuple):
    """A unit of a text with its score."""

    word: str
    log10: float
    length: int
    """Words of the longest n-gram of the model that ends here."""
    unknown: bool


class LanguageModel:
    """An n-gram language model. Make one with `load`.

    Scores are backoff scores: float32 values of the file, summed in double in a fixed order, so they are the same bits
    on any machine and for any batch and number of threads.
    """

    def __init__(self, handle: _C.ngram.Model, name: str) -> None:
        self.handle, self.name = handle, name
        self.about: dict[str, Any] = handle.describe()
        """`order`, `entries` by order, `vocabulary`, `file_bytes`, `quantised`, `suffix_closed`, `keeps_words`, …"""
        self._encoder: Any = None
        if handle.units.kind == "bpe":
            from codeshell.ngram.bpe import Encoder

            self._encoder = Encoder(handle.units)

    @classmethod
    def load(cls, path: str | Path, memory: Literal["auto", "mapped", "copied"] = "auto") -> LanguageModel:
        """Load a model.

        Args:
            path: a model of codeshell, an ARPA file (plain or gzipped), or a probing binary of KenLM. The latter two
                are converted first, which takes time; `codeshell lm convert` keeps the result.
            memory: whether the file is mapped, or read into the memory of this process; by size if "auto".

        Raises:
            UserError: the file is absent, none of these, of another version, cut short or damaged.
        """
        if memory not in ("auto", "mapped", "copied"):
            raise UserError(f"memory {memory!r}: give auto, mapped or copied")
        path = Path(path)
        if path.is_dir():
            raise UserError(f"{path}: a directory; name a model file in it")
        if convert.kind_of(path) == "codeshell":
            return cls._open(path, path, memory)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder, "model.lm")
            convert.to_model(path, output)
            # A mapped file stays until it is unmapped, though it has no name any more.
            return cls._open(output, path, memory)

    @classmethod
    def _open(cls, path: Path, name: Path, memory: str) -> LanguageModel:
        try:
            copied = memory == "copied" or (memory == "auto" and path.stat().st_size <= COPIED_BYTES)
            return cls(_C.ngram.Model(str(path), copied), str(name))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}; name a model file") from None

    @property
    def order(self) -> int:
        """The longest n-gram."""
        return int(self.about["order"])

    @property
    def kind(self) -> str:
        """Its kind of units: `lexical`, `bpe`, `bytes` or `words` (between blanks; models of KenLM)."""
        return str(self.handle.units.kind)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the trainer wrote about the model; empty where that is no JSON object."""
        try:
            found = json.loads(self.handle.metadata)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def words(self) -> list[str]:
        """The vocabulary by id, as ARPA files have it; the first three are <unk>, <s> and </s>."""
        return self.handle.words()

    def score(self, texts: Texts, *, bos: bool = True, eos: bool = True, threads: int = 1) -> Scores:
        """Score texts.

        Args:
            texts: a sequence of str, or an Arrow array or column of strings, which is read where it lies.
            bos: whether <s> is the first context.
            eos: whether </s> counts as the last word.
        """
        (scores,) = score_all([self], texts, bos=bos, eos=eos, threads=threads)
        return scores

    def score_text(self, text: str, bos: bool = True, eos: bool = True) -> float:
        """The log10 probability of one text: `kenlm.Model.score(text, bos, eos)` for units of words."""
        return float(self.score([text], bos=bos, eos=eos).log10[0])

    def perplexity(self, text: str) -> float:
        """Perplexity per word of one text, with both ends: `kenlm.Model.perplexity(text)` for units of words."""
        return float(self.score([text]).perplexity[0])

    def trace(self, text: str, *, bos: bool = True, eos: bool = True) -> list[Word]:
        """Each unit of a text with its score, </s> last if it counts."""
        found = self._each(text.encode(), bos, eos)
        columns = (found["id"].tolist(), found["log10"].tolist(), found["length"].tolist())
        return [
            Word(self.handle.word(number), log10, length, number == 0)
            for number, log10, length in zip(*columns, strict=True)
        ]

    def lines(self, text: str) -> list[Line]:
        """What each line of a text costs; a unit belongs to the line in which it begins. An empty text has none."""
        data = text.encode()
        if not data:
            return []
        # Line i begins at byte starts[i]. A line break at the very end begins no line.
        breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
        starts = np.concatenate([[0], breaks[breaks < len(data)]])
        found = self._each(data, True, True)
        line = np.minimum(np.searchsorted(starts, found["begin"], "right") - 1, len(starts) - 1)
        # bincount adds in the order of the units.
        bits = np.bincount(line, -found["log10"] * BITS, len(starts))
        sizes = np.diff(starts, append=len(data))
        return [
            Line(i + 1, size, cost) for i, (size, cost) in enumerate(zip(sizes.tolist(), bits.tolist(), strict=True))
        ]

    def _each(self, data: bytes, bos: bool, eos: bool) -> dict[str, NDArray[Any]]:
        if self._encoder is None:
            return self.handle.score_each(data, bos, eos)
        # The tokenizer tells where each token begins, in characters.
        ids, begins = self._encoder.encode_spans(data.decode())
        found = self.handle.score_each_id(ids, bos, eos)
        found["begin"] = np.concatenate([begins, [len(data)] * eos]).astype(np.int64)
        return found

    def _ids(self, piece: TextBuffers) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        ids, offsets = self._encoder.encode(piece)
        return ids, offsets


def score_all(
    models: Sequence[LanguageModel],
    texts: Texts,
    *,
    bos: bool = True,
    eos: bool = True,
    threads: int = 1,
    rows: NDArray[np.int64] | None = None,
) -> list[Scores]:
    """The scores of the texts under each model. Texts are cut into units once for models that share their vocabulary.

    Args and results are those of `LanguageModel.score`, and:
        rows: (n,) of an Arrow array or column, ascending: the texts that are scored. They are read where they lie.
    """
    parts: list[list[Scores]] = [[] for _ in models]
    direct = [number for number, model in enumerate(models) if model._encoder is None]
    for piece, chosen in _pieces(texts, rows):
        sizes = np.diff(piece.offsets) if chosen is None else piece.offsets[chosen + 1] - piece.offsets[chosen]
        handles = [models[number].handle for number in direct]
        found = _C.ngram.score_texts(handles, piece.data, piece.offsets, bos, eos, threads, chosen) if direct else {}
        for row, number in enumerate(direct):
            parts[number].append(Scores(found["units"][row], found["unknown"][row], found["log10"][row], sizes, eos))
        for number, model in enumerate(models):
            if model._encoder is not None:
                ids = model._ids(piece if chosen is None else _copied(piece, chosen))
                each = model.handle.score_ids(*ids, bos, eos)
                parts[number].append(Scores(each["units"][0], each["unknown"][0], each["log10"][0], sizes, eos))
    return [_joined(some, eos) for some in parts]


def _pieces(texts: Texts, rows: NDArray[np.int64] | None) -> Iterator[tuple[TextBuffers, NDArray[np.int64] | None]]:
    """Stretches of the texts of about `PIECE_BYTES`, and the chosen ones of each; None for all."""
    first = 0
    for piece in text_buffers(texts):
        if rows is None:
            yield from ((view, None) for view in cut(piece))
            continue
        # The rows of this Arrow chunk, in groups of about as many bytes.
        low, high = np.searchsorted(rows, [first, first + len(piece)])
        chosen = rows[low:high] - first
        first += len(piece)
        sizes = piece.offsets[chosen + 1] - piece.offsets[chosen]
        groups = (np.cumsum(sizes) - sizes) // PIECE_BYTES
        for group in np.split(chosen, np.flatnonzero(np.diff(groups)) + 1):
            if len(group):
                yield piece, group


def _copied(piece: TextBuffers, rows: NDArray[np.int64]) -> TextBuffers:
    """Some texts of a piece, end to end."""
    spans = [(int(piece.offsets[row]), int(piece.offsets[row + 1])) for row in rows.tolist()]
    offsets = np.cumsum([0, *(end - begin for begin, end in spans)], dtype=np.int64)
    return TextBuffers(b"".join(bytes(piece.data[begin:end]) for begin, end in spans), offsets)


def _joined(parts: list[Scores], ended: bool) -> Scores:
    def column(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)])

    return Scores(
        column("tokens", np.int64), column("unknown", np.int64), column("log10", np.float64),
        column("bytes", np.int64), ended,
    )  # fmt: skip
