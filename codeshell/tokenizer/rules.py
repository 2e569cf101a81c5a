"""The merge rules of a byte-level BPE file, and what they do to one word: a plain second encoder.

`tokenizers` encodes text. This file answers what an encoder does not tell: by which rule a token comes about, and which
rules never apply. A token that does not encode to itself alone never occurs in any text, not even for a moment, because
the rules inside a stretch of text that ends up as one token do there what they do in that stretch alone. So each token
that does occur has exactly one rule that makes it, and every other rule can go without changing a single id.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, NamedTuple

from codeshell.tokenizer.encoder import BYTE_SYMBOLS

Rule = tuple[str, str]
"""Two tokens, in the byte alphabet, that are merged into one."""


class Made(NamedTuple):
    """What a word becomes: its pieces, and the last rule that was applied (None if none was)."""

    pieces: list[str]
    last: Rule | None


class Rules:
    """Vocabulary and merges, the specials left out.

    Attributes:
        vocabulary: id by token.
        order: the merges, as the file lists them.
        ranks: place of each merge; of one that is listed twice, the later place, as in `tokenizers`.
    """

    def __init__(self, vocabulary: dict[str, int], order: list[Rule]) -> None:
        self.vocabulary = vocabulary
        self.order = order
        self.ranks = {rule: rank for rank, rule in enumerate(order)}

    @staticmethod
    def of(core: Mapping[str, Any]) -> Rules:
        """The rules of an encoding core (`Tokenizer.core`)."""
        return Rules(dict(core["model"]["vocab"]), [(first, second) for first, second in core["model"]["merges"]])

    def append(self, rule: Rule) -> None:
        """Add a merge after all others."""
        self.ranks[rule] = len(self.order)
        self.order.append(rule)

    def remove(self, token: str) -> None:
        """Take out the merges that make a token. The ranks of the others keep their order."""
        self.order = [rule for rule in self.order if rule[0] + rule[1] != token]
        self.ranks = {rule: rank for rank, rule in enumerate(self.order)}

    def apply(self, word: str) -> Made:
        """Merge a word, given in the byte alphabet: the lowest rank first, of equal ranks the leftmost.

        Symbols that the vocabulary lacks are dropped, as `tokenizers` drops them. Time is n log n in the word's length.
        """
        tokens: list[str | None] = [symbol for symbol in word if symbol in self.vocabulary]
        # Links to the neighbours, and a heap of the rules that fit at present or did when they were entered.
        size = len(tokens)
        after, before = list(range(1, size + 1)), list(range(-1, size - 1))
        heap: list[tuple[int, int, Rule]] = []
        ranks = self.ranks

        def enter(left: int) -> None:
            first, second = tokens[left], tokens[after[left]]
            assert first is not None and second is not None  # because only tokens that are left are linked
            rank = ranks.get((first, second))
            if rank is not None:
                heapq.heappush(heap, (rank, left, (first, second)))

        for left in range(size - 1):
            enter(left)
        last: Rule | None = None
        while heap:
            _, left, rule = heapq.heappop(heap)
            right = after[left] if tokens[left] is not None else size
            if right >= size or (tokens[left], tokens[right]) != rule:
                continue  # one of the two was merged meanwhile
            tokens[left], tokens[right], last = rule[0] + rule[1], None, rule
            after[left] = after[right]
            if after[left] < size:
                before[after[left]] = left
                enter(left)
            if before[left] >= 0:
                enter(before[left])
        return Made([token for token in tokens if token is not None], last)


def in_symbols(data: bytes) -> str:
    """Bytes in the byte alphabet."""
    return data.decode("latin-1").translate(_SYMBOL_OF)


def from_symbols(token: str) -> bytes | None:
    """The bytes of a token; None if it is not written in the byte alphabet."""
    try:
        return bytes([BYTE_SYMBOLS[symbol] for symbol in token])
    except KeyError:
        return None


_SYMBOL_OF = {byte: symbol for symbol, byte in BYTE_SYMBOLS.items()}
