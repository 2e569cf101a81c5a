"""Tokens, shingles, signatures and band keys by their definition, in slow Python, and texts to try them on."""

from __future__ import annotations

import itertools
import unicodedata

from hypothesis import strategies as st

from codeshell import _C
from codeshell.documents.texts import text_buffers

MASK = (1 << 64) - 1
LEVELS = ("scalar", "avx2", "avx512")  # a level that this processor lacks runs as the next lower one


def mix64(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def mix32(x: int) -> int:
    x = (x ^ (x >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ (x >> 16)


def kind(character: str) -> str:
    """The class of a character; characters of the same class "word" or "other" run together."""
    code = ord(character)
    if character == "_" or (code < 128 and character.isalnum()):
        return "word"
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF)):
        if first <= code <= last:
            return "alone"
    return "other" if unicodedata.category(character)[0] in "LN" else "separator"


def slow_tokens(text: str) -> list[str]:
    tokens = []
    for name, group in itertools.groupby(text, kind):
        run = "".join(group)
        tokens += {"separator": [], "alone": list(run)}.get(name, [run])
    return tokens


def slow_shingles(text: str, ngram: int) -> list[int]:
    hashes = []
    for token in slow_tokens(text):
        data, value = token.encode(), 0
        for at in range(0, len(data), 8):
            value = mix64(value ^ int.from_bytes(data[at : at + 8], "little"))
        hashes.append(value)
    if not hashes:
        return []
    size = min(ngram, len(hashes))
    shingles = []
    for first in range(len(hashes) - size + 1):
        total = sum(
            h * pow(0x9E3779B97F4A7C15, size - 1 - i, 1 << 64) for i, h in enumerate(hashes[first : first + size])
        )
        shingles.append(mix64(total & MASK))
    return shingles


def slow_signature(shingles: list[int], lanes: int, seed: int) -> list[int]:
    start = mix64(seed) & 0xFFFFFFFF
    factors = [mix32((start + lane) & 0xFFFFFFFF) for lane in range(lanes)]
    return [
        min(((factor * (s & 0xFFFFFFFF) + (s >> 32)) & 0xFFFFFFFF for s in shingles), default=0xFFFFFFFF)
        for factor in factors
    ]


def slow_key(values: list[int], band: int) -> int:
    key = mix64(band + 1)
    for value in values:
        key = mix64(key ^ value)
    return key or 1


def shingle_sets(texts: list[str], ngram: int = 5, level: str = "") -> list[list[int]]:
    (piece,) = text_buffers(texts)
    values, bounds = _C.dedup_shingle_sets(piece.data, piece.offsets, ngram, level)
    return [values[a:b].tolist() for a, b in itertools.pairwise(bounds)]


# Characters whose category has not changed since Unicode 3.2, so that any Python agrees with the compiled table.
STABLE = st.characters(exclude_categories=["Cs"]).filter(
    lambda c: unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c)
)
TEXT = st.lists(
    st.one_of(
        st.text(STABLE, max_size=12),
        st.text("aZ09_ .\n", max_size=80),
        st.text("é߀一ㄱぁァ가豈𝔸½・a ", max_size=12),
    ),
    max_size=12,
).map("".join)
