"""Byte-level BPE in C++ (csrc/bpe)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

class Encoder:
    """Texts to ids, exactly as Hugging Face's `tokenizers` makes them.

    Args:
        pattern: the pre-tokenizer: "gpt2" or "digits-gpt2".
        bytes: the id of each of the 256 bytes, -1 where it has none; such bytes are left out.
        merges: (merges, 3): left part, right part, product, in the order of their ranks.
        whole: words that are one token whatever the merges say (`ignore_merges`).
    """

    def __init__(
        self,
        pattern: str,
        bytes: Sequence[int],
        merges: NDArray[np.uint32],
        whole: Sequence[tuple[bytes, int]] = (),
    ) -> None: ...
    def encode(
        self, data: Buffer, offsets: NDArray[np.int64], threads: int = 1, narrow: bool = False
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of texts `data[offsets[i]:offsets[i + 1]]` end to end, and where each text's begin: (texts + 1,).

        With `narrow` the ids are uint16: the caller knows that they fit. Raises ValueError for a text that is not
        UTF-8.
        """

class Counter:
    """Counts the words of texts; one of more than `longest` characters counts as words of that length and a rest."""

    def __init__(self, pattern: str, longest: int) -> None: ...
    def add(self, data: Buffer, offsets: NDArray[np.int64], threads: int = 1) -> None:
        """Count the words of texts `data[offsets[i]:offsets[i + 1]]`. Raises ValueError for one that is not UTF-8."""

    def words(self) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
        """The different words end to end, where each begins, (words + 1,), and how often each occurred, (words,)."""

    def __len__(self) -> int: ...

def learn(
    tokens: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    names: Sequence[bytes],
    size: int,
    least: int,
) -> tuple[list[bytes], NDArray[np.uint32]]:
    """Learn merges as Hugging Face's BpeTrainer does, until there are `size` tokens or no pair occurs `least` times.

    Args:
        tokens: the words end to end, as ids of tokens.
        offsets: (words + 1,): where each word begins.
        counts: (words,): how often each occurs.
        names: the bytes of the tokens that there are, by id. A product that is one of them gets its id.
        size: how many tokens there shall be, those of `names` included.
        least: occurrences that a pair needs.

    Returns:
        The bytes of all tokens by id, and the merges in their order, (merges, 3): left, right, product.
    """

def split(pattern: str, text: bytes) -> NDArray[np.int64]:
    """Where the words of a text begin, in bytes, and its size: (words + 1,)."""
