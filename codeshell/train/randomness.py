"""Randomness as a hash: every draw is a function of what it is for, so order, workers and resumes cannot change it."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def draw(*parts: int | str) -> int:
    """64 uniform bits that depend on `parts` alone, e.g. `draw(seed, epoch, doc_id, "fim")`."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def below(bits: int, count: int) -> int:
    """Map 64 uniform bits to an integer in [0, count)."""
    return bits * count >> 64


def mix(keys: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Hash an array of 64-bit keys with a salt: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), vectorised.

    It is a bijection for each salt, so different keys never collide.
    """
    x = keys ^ np.uint64(salt)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
