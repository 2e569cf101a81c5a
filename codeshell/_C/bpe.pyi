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

def split(pattern: str, text: bytes) -> NDArray[np.int64]:
    """Where the words of a text begin, in bytes, and its size: (words + 1,)."""
