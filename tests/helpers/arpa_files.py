"""n-gram models as plain dicts: ARPA files and KenLM binaries made of them, and backoff scores by their definition."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence

import numpy as np

Grams = dict[tuple[str, ...], tuple[float, float]]
"""Words, oldest first, to log10 probability and log10 backoff; all float32 values."""

ENDS = ("<unk>", "<s>", "</s>")


def float32(value: float) -> float:
    return float(np.float32(value))


def random_model(seed: int, order: int, words: int = 12, count: int = 120, closed: bool = True) -> Grams:
    """A model with random numbers. Contexts of its n-grams are in it, and their suffixes if it is `closed`."""
    draw = random.Random(seed)
    vocabulary = [*ENDS, *(f"w{i}" for i in range(words))]

    def numbers(length: int) -> tuple[float, float]:
        backoff = float32(draw.uniform(-1, 0.3)) if length < order else 0.0
        return float32(-draw.uniform(0.01, 5)), draw.choice([0.0, backoff])

    grams: Grams = {(word,): numbers(1) for word in vocabulary}
    shorter = list(grams)
    for length in range(2, order + 1):
        # By the words before the last: the n-grams that can follow another one, whose end they share.
        following: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for gram in shorter:
            following.setdefault(gram[:-1], []).append(gram)
        found = {("w0",) * length: numbers(length)}
        for _ in range(count):
            first = draw.choice(shorter)
            last = draw.choice(following[first[1:]])[-1] if first[1:] in following else "w0"
            if not closed and draw.random() < 0.05:
                last = draw.choice(vocabulary)
            if not closed or (*first[1:], last) in grams:
                found[(*first, last)] = numbers(length)
        grams |= found
        shorter = sorted(found)
    return grams


def arpa(grams: Grams, seed: int = 0) -> str:
    """The model as an ARPA file, its n-grams in a random order within each length."""
    order = max(map(len, grams))
    by_length: list[list[tuple[str, ...]]] = [[] for _ in range(order)]
    for gram in grams:
        by_length[len(gram) - 1].append(gram)
    lines = ["\\data\\", *(f"ngram {i + 1}={len(some)}" for i, some in enumerate(by_length))]
    for i, some in enumerate(by_length):
        random.Random(seed + i).shuffle(some)
        lines += ["", f"\\{i + 1}-grams:"]
        for gram in some:
            probability, backoff = grams[gram]
            tail = f"\t{backoff!r}" if i + 1 < order and backoff else ""
            lines.append(f"{probability!r}\t{' '.join(gram)}{tail}")
    return "\n".join([*lines, "", "\\end\\", ""])


def backoff_scores(grams: Mapping[tuple[str, ...], tuple[float, float]], text: Sequence[str], bos: bool, eos: bool) -> (
    list[tuple[float, int]]
):  # fmt: skip
    """(log10, length of the n-gram found) of each word, by the definition of a backoff model."""
    order = max(map(len, grams))
    words = [word if (word,) in grams and word not in ENDS else "<unk>" for word in text]
    words = ["<s>"] * bos + words + ["</s>"] * eos
    scores = []
    for at in range(bos, len(words)):
        for length in range(min(order, at + 1), 0, -1):
            gram = tuple(words[at + 1 - length : at + 1])
            if gram in grams:
                break
        total = grams[gram][0]
        # The contexts that are longer than that of the n-gram, shortest first.
        for size in range(length, order):
            if size <= at:
                total += grams.get(tuple(words[at - size : at]), (0.0, 0.0))[1]
        scores.append((total, length))
    return scores


MULTIPLIER = 1.5
_MASK = (1 << 64) - 1


def kenlm_binary(grams: Grams, ids: Sequence[str]) -> bytes:
    """A KenLM binary (format 5, probing) of a closed model; `ids` are its words in the order of their ids."""
    order = max(map(len, grams))
    counts = [sum(len(gram) == length for gram in grams) for length in range(1, order + 1)]
    number = {word: i for i, word in enumerate(ids)}
    magic = b"mmap lm http://kheafield.com/code format version 5\n"
    header = magic.ljust(56, b"\0") + struct.pack("<fffIIIQ", 0, 1, -0.5, 1, 0xFFFFFFFF, 0, 1)
    header += struct.pack("<B3xfi?3xI", order, MULTIPLIER, 0, True, 0) + struct.pack(f"<{order}Q", *counts)
    header += b"\0" * (-len(header) % 8)
    # The vocabulary: hash of the word to its id, without <unk>.
    words = [(_murmur(word.encode()), struct.pack("<I", i)) for i, word in enumerate(ids) if i]
    body = struct.pack("<II", 0, len(ids)) + _table(words, counts[0], 4)
    # The sign bit of a probability says that no longer n-gram ends in this one.
    ends = {gram[1:] for gram in grams}
    shown = {gram: -numbers[0] if gram in ends else numbers[0] for gram, numbers in grams.items()}
    body += b"".join(struct.pack("<ff", shown[(word,)], grams[(word,)][1]) for word in ids) + b"\0" * 8
    for length in range(2, order + 1):
        entries = []
        for gram, (_, backoff) in grams.items():
            if len(gram) != length:
                continue
            key = number[gram[-1]]
            for word in reversed(gram[:-1]):
                key = (key * 8978948897894561157 & _MASK) ^ ((1 + number[word]) * 17894857484156487943 & _MASK)
            value = struct.pack("<f", shown[gram]) + struct.pack("<f", backoff) * (length < order)
            entries.append((key, value))
        body += _table(entries, counts[length - 1], 4 if length == order else 8)
    return header + body + b"".join(word.encode() + b"\0" for word in ids)


def _table(entries: list[tuple[int, bytes]], count: int, size: int) -> bytes:
    """A hash table with linear probing, as KenLM lays it out."""
    slots = max(count + 1, int(np.float32(MULTIPLIER) * np.float32(count)))
    table: list[bytes | None] = [None] * slots
    for key, value in entries:
        at = key % slots
        while table[at] is not None:
            at = (at + 1) % slots
        table[at] = struct.pack("<Q", key) + value
    return b"".join(entry or b"\0" * (8 + size) for entry in table)


def _murmur(data: bytes) -> int:
    """MurmurHash64A with seed 0 (Austin Appleby, public domain)."""
    m, h = 0xC6A4A7935BD1E995, len(data) * 0xC6A4A7935BD1E995 & _MASK
    whole = len(data) // 8 * 8
    for (k,) in struct.iter_unpack("<Q", data[:whole]):
        k = k * m & _MASK
        k = (k ^ k >> 47) * m & _MASK
        h = (h ^ k) * m & _MASK
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & _MASK
    h = (h ^ h >> 47) * m & _MASK
    return h ^ h >> 47
