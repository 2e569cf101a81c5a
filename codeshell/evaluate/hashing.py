"""Randomness as a hash of (seed, id, purpose): the same draw in any order, on any machine, after any resume."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def draw(seed: int, *parts: str | int) -> int:
    """A uniform 64-bit integer that depends on the seed and the parts alone."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def uniform(key: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Numbers `first … first + count - 1` of the stream `key`, float64 in [0, 1).

    SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014) in counter form: a draw
    is a function of its index. NumPy's generators do not promise the same stream from one version to the next.
    """
    mask = (1 << 64) - 1
    index = np.arange(count, dtype=np.uint64) + np.uint64(first)
    z = np.uint64(key & mask) + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
