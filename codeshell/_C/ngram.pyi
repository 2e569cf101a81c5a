"""The n-gram language model: csrc/ngram."""

from collections.abc import Buffer, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

class Units:
    """What a text is cut into; see csrc/ngram/units.h. Words are as they are in texts; of `bpe`, as in ARPA files."""

    def __init__(self, kind: str, words: Sequence[bytes] = ..., extra: bytes = ...) -> None: ...
    @staticmethod
    def deserialize(blob: bytes) -> Units: ...
    def serialize(self) -> bytes: ...
    def __len__(self) -> int: ...
    @property
    def kind(self) -> Literal["lexical", "bpe", "bytes", "words"]: ...
    @property
    def extra(self) -> bytes: ...
    @staticmethod
    def fixed(kind: str) -> int:
        """Ids without any words."""

    def word(self, id: int) -> str: ...
    def encode(self, data: Buffer, offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids (units,) of several texts, and where each text's begin, (texts + 1,)."""

    def encode_spans(self, text: bytes) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Ids (units,) of a text, and the bytes from and to which each lies, (units, 2)."""

class CommonWords(TypedDict):
    words: list[bytes]
    types: int
    occurrences: int
    covered: int

class WordCounter:
    """Counts words; see csrc/ngram/vocabulary.h."""

    def __init__(self, threads: int, memory: int, folder: str) -> None: ...
    def add(self, data: Buffer, offsets: NDArray[np.int64]) -> None: ...
    def commonest(self, most: int, least: int) -> CommonWords: ...

class Trainer:
    """Counts n-grams and estimates a model; see csrc/ngram/trainer.h."""

    def __init__(
        self, units: Units, order: int, prune: Sequence[int], memory: int, threads: int, folder: str
    ) -> None: ...
    def add(self, data: Buffer, offsets: NDArray[np.int64]) -> None: ...
    def add_ids(self, ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> None: ...
    def estimate(self) -> list[dict[str, Any]]: ...
    def write(self, model: str, arpa: str, metadata: str, options: WriterOptions) -> None: ...
    @property
    def documents(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def spilled(self) -> int: ...

class WriterOptions:
    """How a model is written; see csrc/ngram/writer.h."""

    quantise: bool
    load: int
    keep_words: bool
    memory_bytes: int
