"""The words of a text: what a tokenizer's pre-tokenizer cuts it into, inside which tokens are merged."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from codeshell import _C
from codeshell.documents.texts import TextBuffers, Texts, cut, text_buffers
from codeshell.tokenizer.encoder import served, thread_count
from codeshell.tokenizer.tokenizer import Tokenizer

BATCH_WORDS = 100_000
"""Words that the library encodes at a time: an encoding takes 30 times its text in memory."""

BATCH_SYMBOLS = 4_000_000
"""The same as a limit of their lengths together, unless one word alone is longer."""

NO_LIMIT = 1 << 30
"""Longest word that is counted whole, in characters: learning from a word is linear in its length."""


class Counted(NamedTuple):
    """The different words of texts as ids, one word after the other, and how often each occurs."""

    ids: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    """(words + 1,): where each word begins."""
    counts: npt.NDArray[np.int64]


class Words:
    """Cuts texts as a tokenizer does before it merges, and encodes what it has cut."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        core = tokenizer.core()
        self._tokenizer, (self._pattern, _) = tokenizer, served(core)
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

    def count(self, batches: Iterable[Texts]) -> Counted:
        """The different words of batches of texts, as the ids that the tokenizer gives them."""
        if self._pattern is not None:
            counter = _C.bpe.Counter(self._pattern, NO_LIMIT)
            for batch in batches:
                for piece in text_buffers(batch):
                    for view in cut(piece):
                        counter.add(view.data, view.offsets, thread_count())
            data, offsets, counts = counter.words()
            # A word that stands alone is cut to itself.
            ids, begins = self._tokenizer.encode_buffers(TextBuffers(data, offsets))
            return Counted(ids, begins, counts)
        words: Counter[str] = Counter()
        for batch in batches:
            for text in batch:
                words.update(self.split(str(text)))
        encoded, begins = self.encode(list(words))
        return Counted(encoded, begins, np.fromiter(words.values(), np.int64, len(words)))

    def encode(self, words: Sequence[str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Ids of words in the byte alphabet by merging alone, one word after the other, and where each begins."""
        parts: list[list[int]] = []
        begin = 0
        while begin < len(words):
            end, symbols = begin, 0
            while end < len(words) and end - begin < BATCH_WORDS and symbols < BATCH_SYMBOLS:
                symbols += len(words[end])
                end += 1
            encoded = self._merges.encode_batch_fast(list(words[begin:end]), add_special_tokens=False)
            parts += [encoding.ids for encoding in encoded]
            begin = end
        begins = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=begins[1:])
        return np.fromiter((index for part in parts for index in part), np.uint32, int(begins[-1])), begins
