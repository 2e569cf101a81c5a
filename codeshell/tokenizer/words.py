"""The words of a text: what a tokenizer's pre-tokenizer cuts it into, inside which tokens are merged."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tokenizers

from codeshell.tokenizer.tokenizer import Tokenizer

Ints = npt.NDArray[np.int64]

BATCH_WORDS = 100_000
"""Words encoded at a time: an encoding takes 30 times its text in memory."""

BATCH_SYMBOLS = 4_000_000
"""The same as a limit of their lengths together, unless one word alone is longer."""


class Words:
    """Cuts texts as a tokenizer does before it merges, and encodes what it has cut."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        core = tokenizer.core()
        whole = tokenizers.Tokenizer.from_str(json.dumps(core))
        self._normalizer, self._pre_tokenizer = whole.normalizer, whole.pre_tokenizer
        # Added tokens that are text are found first, the longest where several begin, and are no words.
        added = sorted(tokenizer.added_text, key=lambda name: (-len(name), name))
        self._added = re.compile("|".join(map(re.escape, added))) if added else None
        # An encoder of single words, given in the byte alphabet: nothing is left but the merges.
        core |= {"normalizer": None, "pre_tokenizer": None, "added_tokens": []}
        self._merges = tokenizers.Tokenizer.from_str(json.dumps(core))

    def split(self, text: str) -> Iterator[str]:
        """The words of a text in order, in the byte alphabet."""
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        for piece in self._added.split(text) if self._added else [text]:
            yield from (word for word, _ in self._pre_tokenizer.pre_tokenize_str(piece))

    def count(self, batches: Iterable[Sequence[str]]) -> Counter[str]:
        """How often each word occurs in batches of texts."""
        counts: Counter[str] = Counter()
        for batch in batches:
            for text in batch:
                counts.update(self.split(text))
        return counts

    def encode(self, words: Sequence[str]) -> tuple[Ints, Ints]:
        """Ids of all words, one word after the other, and the number of ids of each."""
        ids: list[Ints] = []
        lengths: list[int] = []
        begin = 0
        while begin < len(words):
            end, symbols = begin, 0
            while end < len(words) and end - begin < BATCH_WORDS and symbols < BATCH_SYMBOLS:
                symbols += len(words[end])
                end += 1
            encoded = self._merges.encode_batch_fast(list(words[begin:end]), add_special_tokens=False)
            parts = [encoding.ids for encoding in encoded]
            lengths += map(len, parts)
            ids.append(np.fromiter((index for part in parts for index in part), np.int64, sum(map(len, parts))))
            begin = end
        return np.concatenate(ids) if ids else np.zeros(0, np.int64), np.array(lengths, np.int64)
