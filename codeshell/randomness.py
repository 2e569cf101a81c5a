"""Randomness as a hash of (seed, id, purpose): every draw is a function of what it is for.

So the order of the work, the number of workers, a kill or a resume cannot change a draw, and no state has to be saved.
The generators of NumPy and torch hold state, and do not promise the same stream in every version.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from codeshell.versions import require

require("numpy", np.__version__)


def draw(*parts: int | str) -> int:
    """64 uniform bits that depend on `parts` alone, e.g. `draw(seed, epoch, doc_id, "fim")`."""
    # The separator keeps ("ab", "c") and ("a", "bc") apart. A path may hold surrogates for bytes that are not UTF-8.
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def below(bits: int, count: int) -> int:
    """Map 64 uniform bits to an integer in [0, count)."""
    # The high half of the product. The bias is at most count / 2^64, without a division.
    return bits * count >> 64


def mix(keys: NDArray[np.uint64], salt: int = 0) -> NDArray[np.uint64]:
    """Hash an array of 64-bit keys with a salt: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), vectorised.

    It is a bijection for each salt, so different keys never collide.
    """
    # Shift, xor and multiplication by an odd number can each be undone, so all of them together can.
    x = keys ^ np.uint64(salt)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(key: int, first: int, count: int) -> NDArray[np.float64]:
    """Numbers `first … first + count - 1` of the stream `key`, in [0, 1): SplitMix64 in counter form."""
    # State n of SplitMix64 is key + (n + 1) * golden ratio, so any number of the stream is had without those before it.
    index = np.arange(count, dtype=np.uint64) + np.uint64(first)
    counter = np.uint64(key & (1 << 64) - 1) + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    # The upper 53 bits, as many as a double holds.
    return (mix(counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53
