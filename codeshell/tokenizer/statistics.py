"""How well a tokenizer compresses: characters and bytes per token, by language.

The measure is that of Table 2 of the CodeShell report: all characters over all tokens of a corpus. Bytes per token are
given beside it, because a Chinese character is three bytes, so the two measures rank tokenizers differently across
languages.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from codeshell.tokenizer.tokenizer import Tokenizer

COUNTS = ("documents", "characters", "bytes", "tokens")


class Meter:
    """Adds up documents; `result` gives the ratios.

    Attributes:
        seconds: time spent encoding. It is not part of `result`, because it is not a function of the input.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.seconds = 0.0
        # Counts of each language; which ids have occurred; documents that lost a byte.
        self._languages: dict[str, dict[str, int]] = {}
        self._used = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        self._changed = 0

    def add(self, languages: Sequence[str | None], texts: Sequence[str]) -> None:
        """Encode documents and count them under their language (None counts as `unknown`)."""
        # Only the encoding is timed; what follows is bookkeeping.
        started = time.perf_counter()
        encoded = self.tokenizer.encode_batch(texts)
        self.seconds += time.perf_counter() - started
        for language, text, ids in zip(languages, texts, encoded, strict=True):
            # Code points of the text, bytes of its UTF-8 form, and ids.
            counts = self._languages.setdefault(language or "unknown", dict.fromkeys(COUNTS, 0))
            size = (1, len(text), len(text.encode()), len(ids))
            for name, value in zip(COUNTS, size, strict=True):
                counts[name] += value
            self._used[ids] = True
            self._changed += self.tokenizer.lost_bytes(text) > 0

    def result(self) -> dict[str, Any]:
        """Totals, ratios, and the same by language.

        `vocabulary_used` is the share of the tokens, special ones left out, that occur. `changed_documents` counts the
        documents that hold a byte which the tokenizer lacks.
        """
        # From the sums, not from the languages' ratios: large languages weigh more, as in the report's table.
        totals = {name: sum(counts[name] for counts in self._languages.values()) for name in COUNTS}
        return _with_ratios(totals) | {
            "vocabulary_used": round(int(self._used.sum()) / self.tokenizer.base_vocab_size, 6),
            "changed_documents": self._changed,
            "by_language": {name: _with_ratios(self._languages[name]) for name in sorted(self._languages)},
        }


def _with_ratios(counts: dict[str, int]) -> dict[str, Any]:
    """The counts and the two ratios, which are None without a token."""
    tokens = counts["tokens"]
    return counts | {
        "characters_per_token": round(counts["characters"] / tokens, 4) if tokens else None,
        "bytes_per_token": round(counts["bytes"] / tokens, 4) if tokens else None,
    }


def table(result: dict[str, Any]) -> str:
    """`Meter.result` as lines of text: one row per language, the largest first, and the total."""
    # Equal sizes in the order of their names, so that the table is a function of the result.
    rows = sorted(result["by_language"].items(), key=lambda item: (-item[1]["bytes"], item[0]))
    lines = [f"{'language':<20} {'documents':>10} {'bytes':>13} {'tokens':>12} {'chars/token':>12} {'bytes/token':>12}"]
    for name, row in [*rows, ("total", result)]:
        ratios = [
            f"{row[key]:12.3f}" if row[key] else f"{'-':>12}" for key in ("characters_per_token", "bytes_per_token")
        ]
        lines.append(f"{name:<20} {row['documents']:>10,} {row['bytes']:>13,} {row['tokens']:>12,} {' '.join(ratios)}")
    return "\n".join(lines)
