"""How much text a token carries: tokenizers side by side on named corpora, as in Table 2 of the CodeShell report.

The report's measure is all characters over all tokens of a corpus. Bytes per token stand beside it, because a Chinese
character is three bytes. A file of Chinese code is mostly not Chinese, so the Chinese in it is measured on its own,
too: Chinese characters over the tokens that hold at least one byte of one. A total over corpora depends on their sizes,
so each corpus is named with its hash.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from codeshell.documents.shards import document_id
from codeshell.tokenizer.tokenizer import Tokenizer

HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
"""First and last code points of the blocks of Chinese characters; punctuation is not in them."""

TOTAL = "total"

_COUNTS = ("characters", "bytes", "chinese")


class Comparison:
    """Adds up corpora; `result` gives the table.

    Args:
        tokenizers: by the names that the table has for them; the first is the one that others are compared with.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        self._tokenizers = dict(tokenizers)
        # The bytes of every id, to know which tokens hold a Chinese character.
        self._lengths = {name: _byte_lengths(tokenizer) for name, tokenizer in tokenizers.items()}
        self._corpora: dict[str, dict[str, Any]] = {}

    def add(self, corpus: str, batches: Iterable[Sequence[str]]) -> None:
        """Encode all texts of a corpus with every tokenizer."""
        counts = {"documents": 0, **dict.fromkeys(_COUNTS, 0)}
        rows = {name: {"tokens": 0, "chinese_tokens": 0, "lost_bytes": 0} for name in self._tokenizers}
        ids: list[str] = []
        for texts in batches:
            data = [text.encode() for text in texts]
            ids += map(document_id, data)
            marks = [_han_bytes(text) for text in texts]
            counts["documents"] += len(texts)
            counts["characters"] += sum(map(len, texts))
            counts["bytes"] += sum(map(len, data))
            counts["chinese"] += sum(_han(text) for text in texts)
            for name, tokenizer in self._tokenizers.items():
                row = rows[name]
                for text, mark, encoded in zip(texts, marks, tokenizer.encode_batch(texts), strict=True):
                    row["tokens"] += len(encoded)
                    row["lost_bytes"] += tokenizer.lost_bytes(text)
                    row["chinese_tokens"] += _holding(mark, text, tokenizer, self._lengths[name][encoded])
        # Neither the order of the texts nor how they are stored changes the hash.
        digest = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()
        self._corpora[corpus] = counts | {"sha256": digest, "tokenizers": rows}

    def documents(self, corpus: str) -> int:
        """How many texts a corpus has."""
        return int(self._corpora[corpus]["documents"])

    def result(self) -> dict[str, Any]:
        """The tokenizers' sizes and hashes, and for each corpus and the total the counts and ratios.

        `tokens_to_first` is the number of tokens over that of the first tokenizer.
        """
        total: dict[str, Any] = dict.fromkeys(("documents", *_COUNTS), 0)
        rows = {name: {"tokens": 0, "chinese_tokens": 0, "lost_bytes": 0} for name in self._tokenizers}
        for corpus in self._corpora.values():
            for name in total:
                total[name] += corpus[name]
            for name, row in rows.items():
                for key in row:
                    row[key] += corpus["tokenizers"][name][key]
        corpora = self._corpora | ({TOTAL: total | {"tokenizers": rows}} if len(self._corpora) > 1 else {})
        return {
            "tokenizers": {
                name: {"tokens": tokenizer.base_vocab_size, "specials": len(tokenizer.specials), "hash": tokenizer.hash}
                for name, tokenizer in self._tokenizers.items()
            },
            "corpora": {name: _with_ratios(corpus) for name, corpus in corpora.items()},
        }


def table(result: Mapping[str, Any]) -> str:
    """`Comparison.result` as lines of text."""
    first = f"{'corpus':<12} {'tokenizer':<20} {'size':>8} {'tokens':>12} {'chars/token':>12} {'bytes/token':>12}"
    lines = [f"{first} {'Chinese/token':>14} {'tokens to first':>16}"]
    for corpus, counts in result["corpora"].items():
        for name, row in counts["tokenizers"].items():
            size = result["tokenizers"][name]["tokens"]
            chinese = f"{row['chinese_per_token']:14.3f}" if row["chinese_per_token"] else f"{'-':>14}"
            ratio = f"{row['tokens_to_first']:16.4f}" if row["tokens_to_first"] else f"{'-':>16}"
            lines.append(
                f"{corpus:<12} {name:<20} {size:>8,} {row['tokens']:>12,} {row['characters_per_token'] or 0:12.3f} "
                f"{row['bytes_per_token'] or 0:12.3f} {chinese} {ratio}"
            )
    for corpus, counts in result["corpora"].items():
        if corpus != TOTAL:
            lines.append(
                f"{corpus}: {counts['documents']:,} documents, {counts['characters']:,} characters "
                f"({counts['chinese']:,} Chinese), {counts['bytes']:,} bytes, SHA-256 {counts['sha256'][:16]}"
            )
    return "\n".join(lines)


def _with_ratios(corpus: Mapping[str, Any]) -> dict[str, Any]:
    """The counts, and for each tokenizer the ratios; None where there is nothing to divide by."""
    rows: dict[str, dict[str, Any]] = {}
    first: int | None = None
    for name, row in corpus["tokenizers"].items():
        first = row["tokens"] if first is None else first
        rows[name] = row | {
            "characters_per_token": _ratio(corpus["characters"], row["tokens"]),
            "bytes_per_token": _ratio(corpus["bytes"], row["tokens"]),
            "chinese_per_token": _ratio(corpus["chinese"], row["chinese_tokens"]),
            "tokens_to_first": _ratio(row["tokens"], first),
        }
    return dict(corpus) | {"tokenizers": rows}


def _ratio(value: int, divisor: int) -> float | None:
    return round(value / divisor, 5) if divisor else None


def _byte_lengths(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Bytes of each id; 0 for ids that no text yields."""
    ids = tokenizer.core()["model"]["vocab"].values()
    lengths = np.zeros(tokenizer.vocab_size, np.int64)
    for index in ids:
        lengths[index] = len(tokenizer.decode_bytes([index]))
    return lengths


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _is_han(points: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    result = np.zeros(len(points), np.bool_)
    for first, last in HAN:
        result |= (points >= first) & (points <= last)
    return result


def _han(text: str) -> int:
    """Chinese characters of a text."""
    return int(_is_han(_code_points(text)).sum())


def _han_bytes(text: str) -> npt.NDArray[np.bool_]:
    """Whether each byte of the UTF-8 form of a text is part of a Chinese character."""
    points = _code_points(text)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.repeat(_is_han(points), sizes)


def _holding(mark: npt.NDArray[np.bool_], text: str, tokenizer: Tokenizer, lengths: npt.NDArray[np.int64]) -> int:
    """How many tokens hold a marked byte, where the tokens have these lengths in bytes."""
    # A normaliser changes the text before it is cut.
    if tokenizer.normalizer is not None and int(lengths.sum()) != len(mark):
        text = unicodedata.normalize("NFC", text)
        mark = _han_bytes(text)
    # Bytes that the tokenizer lacks are in no token.
    if tokenizer.missing_bytes:
        data = np.frombuffer(text.encode(), np.uint8)
        mark = mark[~np.isin(data, np.frombuffer(tokenizer.missing_bytes, np.uint8))]
    ends = np.cumsum(lengths)
    if not len(ends) or ends[-1] != len(mark):
        return 0
    marked = np.concatenate(([0], np.cumsum(mark)))
    return int((marked[ends] > marked[ends - lengths]).sum())
