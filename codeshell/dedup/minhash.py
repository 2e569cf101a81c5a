"""MinHash signatures of texts, the other marks that the deduper signs texts with, and the exact Jaccard of two."""

from __future__ import annotations

from typing import NamedTuple, Protocol, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup import datasketch
from codeshell.documents.texts import TextBuffers, Texts, text_buffers
from codeshell.environment import thread_count
from codeshell.recipe import NearDedup, Recipe

_DEFAULTS = NearDedup()
BANDS, ROWS, NGRAM = _DEFAULTS.bands, _DEFAULTS.rows, _DEFAULTS.ngram
THRESHOLD, SEED = _DEFAULTS.threshold, Recipe().seed
"""Defaults, as the recipe defines them. 21 bands of 6 rows make a pair of Jaccard J a candidate with probability
1 - (1 - J^6)^21: 0.93 at J = 0.7, 0.998 at 0.8. Precision comes from verification, so the curve may be generous;
schemes of 250 rows find half as many pairs at 0.7."""

SHINGLES = ("code", "starcoder", "stack-v2", "datatrove", "char-24")
"""The kinds of shingles: csrc/dedup/tokens.h (code), or exactly those that a peer makes (csrc/dedup/presets.h)."""

SCHEMES = ("codeshell", *datasketch.SCHEMES)
"""The kinds of lanes of a signature: csrc/dedup/minhash.h, or csrc/dedup/datasketch.h."""

MAX_LANES = 65_536
"""The most lanes that a signature may have. It is far beyond any use (450 x 20 is the longest in the literature), and
it bounds the memory."""


class SignParameters(Protocol):
    """The parameters of a search that `sign` reads; see `minhash` for their meanings."""

    @property
    def bands(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def ngram(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def shingles(self) -> str: ...


class Signed(NamedTuple):
    """What the join needs to know of each text; every array has one row per text."""

    keys: NDArray[np.uint64]
    """(texts, bands): two texts are candidates if they share a key. 0 means "no key" (a text without shingles)."""
    sketches: NDArray[np.uint8]
    """(texts, width): the low byte of each of the bands * rows lanes, padded with zero bytes to a multiple of 64. The
    share of equal bytes of two rows estimates their Jaccard; on average it is (1 - J)/256 too high."""
    fingerprints: NDArray[np.uint64]
    """(texts, 2): a hash of 128 bits of the multiset of shingles; for a text without shingles, of its bytes."""
    shingles: NDArray[np.uint32]
    """(texts,): the number of shingles, with repetitions (2^32 - 1 for that many or more)."""


def minhash(
    texts: Texts,
    *,
    bands: int = BANDS,
    rows: int = ROWS,
    ngram: int | None = None,
    seed: int | None = None,
    threads: int = 0,
    shingles: str = "code",
    scheme: str = "codeshell",
    num_perm: int | None = None,
    hash: str | None = None,
) -> datasketch.Signatures:
    """MinHash signatures of texts. The share of equal lanes of two rows estimates the Jaccard of their shingle sets,
    unbiased and with variance J(1-J)/(bands*rows) (Broder 1997).

    A shingle of "code" is `ngram` consecutive tokens; a token is a run of `[A-Za-z0-9_]`, one kana, Han or Hangul
    character, or a run of other letters and numbers (csrc/dedup/tokens.h). A text of fewer tokens has one shingle, of
    all its tokens.

    Args:
        texts: strings: a list, or an Arrow array (`large_string` is read where it lies).
        bands, rows: their product is the number of lanes (not with a scheme of datasketch).
        ngram: tokens, words or characters in a shingle; by default the preset's own number (5; 24 for "char-24").
        seed: chooses the hash functions; signatures of different seeds cannot be compared. By default 0; with a
            scheme of datasketch 1, as there.
        threads: 0 means all cores. The result does not depend on it, nor on the processor.
        shingles: one of `SHINGLES`: ours, or exactly those of a peer.
        scheme: one of `SCHEMES`, which define the lanes. "datasketch" (the only one before its version 2.0, now called
            "legacy" there), "datasketch-affine32" and "datasketch-affine64" give the `hashvalues` of
            `datasketch.MinHash`, bit for bit.
        num_perm: the number of lanes; by default bands * rows, with a scheme of datasketch 128, as there.
        hash: for the schemes of datasketch, "sha1" or "sha1-64"; see `minhash_sets`.

    Returns:
        (texts, lanes) uint32; uint64 for "datasketch" and "datasketch-affine64". All lanes of a text without shingles
        are 2^32 - 1 (2^64 - 1 for affine64).

    Raises:
        ValueError: an impossible parameter, a null text, or something that is not text.
    """
    ngram = shingle_length(shingles, ngram)
    lanes = bands * rows if num_perm is None else num_perm
    check_parameters(bands=bands, rows=rows, ngram=ngram, shingles=shingles)
    if scheme not in SCHEMES:
        raise ValueError(f"scheme: {scheme!r} is none of {', '.join(SCHEMES)}")
    # From here on the arguments are sound; the two families of schemes have different defaults.
    count = thread_count(threads)
    if scheme != "codeshell":
        return datasketch.minhash_texts(
            texts,
            scheme=scheme,
            num_perm=datasketch.NUM_PERM if num_perm is None else num_perm,
            seed=datasketch.SEED if seed is None else seed,
            shingles=shingles,
            ngram=ngram,
            hash=hash,
            threads=count,
        )
    if hash is not None:
        raise ValueError("hash: the scheme codeshell has one hash function; leave this out")
    if not isinstance(lanes, SupportsIndex) or not 1 <= lanes <= MAX_LANES:
        raise ValueError(f"num_perm: {lanes!r} is not in 1..{MAX_LANES}")
    seed = SEED if seed is None else seed
    check_parameters(seed=seed)
    # One array per piece: Arrow may hold the texts in several chunks.
    parts = [
        _C.dedup_minhash(piece.data, piece.offsets, ngram, lanes, seed, count, preset=shingles)
        for piece in text_buffers(texts)
    ]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.empty((0, lanes), np.uint32), *parts])


def sign(piece: TextBuffers, parameters: SignParameters, threads: int = 1) -> Signed:
    """Compute what the join needs to know of texts, in one pass over them and without the GIL.

    The parameters are not checked again. The result does not depend on `threads`, nor on how texts are cut into pieces.
    """
    p = parameters
    return Signed(*_C.dedup_sign(piece.data, piece.offsets, p.shingles, p.ngram, p.bands, p.rows, p.seed, threads))


def band_keys(
    piece: TextBuffers, *, bands: int, rows: int, ngram: int, seed: int, threads: int = 1
) -> NDArray[np.uint64]:
    """The band keys of `sign` alone, (texts, bands)."""
    return _C.dedup_sign(piece.data, piece.offsets, "code", ngram, bands, rows, seed, threads)[0]


def jaccard(text_a: str, text_b: str, *, ngram: int | None = None, shingles: str = "code") -> float:
    """The exact Jaccard of the shingle sets of two texts: 1 for equal texts, 0 if just one has shingles.

    Raises:
        ValueError: `ngram` below 1, unknown `shingles`.
    """
    ngram = shingle_length(shingles, ngram)
    check_parameters(ngram=ngram, shingles=shingles)
    (piece,) = text_buffers([text_a, text_b])
    # Set i is values[bounds[i]:bounds[i + 1]], distinct and ascending.
    values, bounds = _C.dedup_shingle_sets(piece.data, piece.offsets, ngram, preset=shingles)
    size_a, size_b = int(bounds[1]), int(bounds[2] - bounds[1])
    # Two texts without shingles resemble each other only if they are equal.
    if not size_a and not size_b:
        return float(text_a == text_b)
    # Both sets lie in one array, so a value that both have occurs twice in it.
    shared = size_a + size_b - len(np.unique(values))
    return shared / (size_a + size_b - shared)


def shingle_length(shingles: str, ngram: int | None) -> int:
    """`ngram`, or for None the own length of this kind of shingles."""
    if ngram is not None:
        return ngram
    return 24 if shingles == "char-24" else NGRAM


def check_parameters(
    *,
    bands: int = BANDS,
    rows: int = ROWS,
    ngram: int = NGRAM,
    seed: int = SEED,
    threshold: float = THRESHOLD,
    shingles: str = "code",
) -> None:
    """Raise a `ValueError` that names the first impossible parameter."""
    for name, value in (("bands", bands), ("rows", rows), ("ngram", ngram), ("seed", seed)):
        if not isinstance(value, SupportsIndex):
            raise ValueError(f"{name}: {value!r} is not a whole number")
        if name != "seed" and value < 1:
            raise ValueError(f"{name}: {value} is below 1")
    if ngram >= 1 << 31:
        raise ValueError(f"ngram: {ngram} is not below 2^31")
    if bands * rows > MAX_LANES:
        raise ValueError(f"bands * rows: {bands} x {rows} is more than {MAX_LANES} lanes")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed: {seed} is not an unsigned 64-bit number")
    if not isinstance(threshold, SupportsFloat) or not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold: {threshold} is not in (0, 1]")
    if shingles not in SHINGLES:
        raise ValueError(f"shingles: {shingles!r} is none of {', '.join(SHINGLES)}")
