"""What makes the ids of a tokenizer: the C++ of this package, or the `tokenizers` library where that does not serve.

Both take texts as buffers and give the same ids. The C++ (csrc/bpe) serves byte-level BPE with the pre-tokenizers of
`PATTERNS`; `served` says what keeps a tokenizer from it. Any other is encoded by the library, which is said once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from codeshell import _C
from codeshell.documents.texts import TextBuffers
from codeshell.errors import UserError

CHUNK_CHARACTERS = 1 << 21
"""Characters given to `tokenizers` at a time, or one longer document: an encoding takes 30 times its text in memory."""

THREAD_BYTES = 1 << 17
"""Text for which one more thread is worth its start."""

_log = logging.getLogger(__name__)
_said: set[str] = set()

_allowed = 0
"""The threads that `tokenizer_threads` allows this process; 0 for as many as this process has cores."""


def byte_symbols() -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards."""
    # Left out are the control characters, both spaces, and the soft hyphen 0xAD, which is invisible.
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_SYMBOLS = byte_symbols()
"""The byte that each of the 256 characters of byte-level vocabularies stands for."""

_DIGITS = {"type": "Digits", "individual_digits": True}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

PATTERNS: dict[str, list[dict[str, Any]]] = {
    "gpt2": [_BYTE_LEVEL],
    "digits-gpt2": [_DIGITS, _BYTE_LEVEL],
}
"""The pre-tokenizers that csrc/bpe/split.h has, by their names there: the steps of a `tokenizer.json`, in the reduced
form of codeshell/tokenizer/tokenizer.py."""


class Encoder(Protocol):
    """Texts to ids."""

    def encode(self, texts: TextBuffers) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """The ids of texts end to end, (ids,), and where those of each text begin, (texts + 1,).

        Raises:
            ValueError: a text that is not UTF-8.
        """
        ...


def make_encoder(core: dict[str, Any], origin: str) -> Encoder:
    """The encoder of what decides the ids in a `tokenizer.json` (`tokenizer._encoding_core`).

    Raises:
        UserError: a merge of tokens that are not in the vocabulary, or what the library refuses; `origin` names it.
    """
    pattern, reason = served(core)
    if pattern is None:
        if reason not in _said:
            _said.add(reason)
            _log.warning("%s: the tokenizers library encodes, at a tenth of the speed: %s (said once)", origin, reason)
        return LibraryEncoder(core, origin)
    return NativeEncoder(core, pattern, origin)


def served(core: dict[str, Any]) -> tuple[str | None, str]:
    """The name of the pattern in `PATTERNS` with which the C++ serves a tokenizer; None, and why it does not."""
    model = core["model"]
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            return None, f"its model has {name}"
    if core.get("normalizer"):
        return None, f"it has the normaliser {core['normalizer'].get('type')}"
    if core.get("added_tokens"):
        return None, "it has added tokens that are text"
    steps = core["pre_tokenizer"]["pretokenizers"]
    for pattern, known in PATTERNS.items():
        if known == steps:
            return pattern, ""
    return None, "its pre-tokenizer is " + ", ".join(map(_step_name, steps))


def _step_name(step: dict[str, Any]) -> str:
    """A step of a pre-tokenizer for people: its type, and its pattern if it has one."""
    pattern = step.get("pattern")
    return f"{step['type']}" + (f" {json.dumps(pattern, ensure_ascii=False)[:60]}" if pattern else "")


class NativeEncoder:
    """The encoder of csrc/bpe."""

    def __init__(self, core: dict[str, Any], pattern: str, origin: str) -> None:
        vocabulary: dict[str, int] = core["model"]["vocab"]
        ids = [-1] * 256
        for symbol, byte in BYTE_SYMBOLS.items():
            ids[byte] = vocabulary.get(symbol, -1)
        # (merges, 3): the two parts and their product.
        try:
            merges = [
                (vocabulary[left], vocabulary[right], vocabulary[left + right])
                for left, right in core["model"]["merges"]
            ]
        except KeyError as error:
            raise UserError(
                f"{origin}: cannot build it (a merge names {error}, which the vocabulary lacks); "
                "give a valid tokenizer.json"
            ) from None
        # With ignore_merges a word that is a token is that token. Words are bytes, so other tokens match none.
        whole = list(_byte_tokens(vocabulary)) if core["model"]["ignore_merges"] else []
        self._encoder = _C.bpe.Encoder(pattern, ids, np.array(merges, np.uint32).reshape(-1, 3), whole)

    def encode(self, texts: TextBuffers) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        size = int(texts.offsets[-1] - texts.offsets[0])
        return self._encoder.encode(texts.data, texts.offsets, min(thread_count(), 1 + size // THREAD_BYTES))


class LibraryEncoder:
    """The encoder of Hugging Face's `tokenizers`."""

    def __init__(self, core: dict[str, Any], origin: str) -> None:
        import tokenizers

        try:
            self._encoder = tokenizers.Tokenizer.from_str(json.dumps(core))
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{origin}: tokenizers cannot build it ({error}); give a valid tokenizer.json") from None

    def encode(self, texts: TextBuffers) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        parts: list[npt.NDArray[np.uint32]] = []
        bounds = texts.offsets.tolist()
        try:
            strings = [str(texts.data[begin:end], "utf-8") for begin, end in pairwise(bounds)]
        except UnicodeDecodeError as error:
            raise ValueError(f"texts: a text is not UTF-8 ({error.reason} at byte {error.start})") from None
        # The fast call computes no offsets. The order of the texts is kept.
        for chunk in _chunks(strings):
            found = self._encoder.encode_batch_fast(chunk, add_special_tokens=False)
            parts += [np.array(one.ids, np.uint32) for one in found]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return np.concatenate(parts or [np.zeros(0, np.uint32)]), offsets


def _byte_tokens(vocabulary: dict[str, int]) -> Iterator[tuple[bytes, int]]:
    """The tokens that are written in the byte alphabet, as their bytes, and their ids."""
    for name, index in vocabulary.items():
        with contextlib.suppress(KeyError):
            yield bytes([BYTE_SYMBOLS[symbol] for symbol in name]), index


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lists of about `CHUNK_CHARACTERS`; no text is cut."""
    chunk: list[str] = []
    size = 0
    # A chunk ends after the text that fills it, so it may be longer by almost one text.
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def thread_count() -> int:
    """How many threads encode: what `tokenizer_threads` allows, or one for each core of this process."""
    return _allowed or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def tokenizer_threads(count: int) -> Iterator[None]:
    """Let encoding use `count` threads inside the block.

    For the `tokenizers` library a count of one is always kept. A larger count is a request: the library makes its pool
    once per process, at the first parallel call, so a second block with another number keeps the pool of the first.
    """
    global _allowed
    # The library reads both from the environment; there is no call for it.
    names = {"TOKENIZERS_PARALLELISM": "true" if count > 1 else "false", "RAYON_NUM_THREADS": str(count)}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    allowed, _allowed = _allowed, count
    try:
        yield
    finally:
        _allowed = allowed
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
