"""Signatures equal, bit for bit, to those of the Python package datasketch, so that stored ones can still be used.

There are three schemes, named as in datasketch 2.0: "legacy" (the only one before 2.0), "affine32" (the default since
then) and "affine64". csrc/dedup/datasketch.h defines the lanes of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents.texts import TextBuffers, Texts, text_buffers
from codeshell.environment import thread_count

NUM_PERM, SEED = 128, 1
"""datasketch's defaults."""

MAX_LANES = 65_536
"""The most permutations that a signature may have."""

SCHEMES = {"datasketch": "legacy", "datasketch-affine32": "affine32", "datasketch-affine64": "affine64"}
"""Our names for datasketch's schemes."""

HASHES = {"sha1": False, "sha1-64": True}
"""Hash functions, and whether their values have 64 bits: datasketch's `sha1_hash32` and `sha1_hash64`."""

GIVEN = "given"
"""The name of the hash function for sets whose elements are hash values already."""

Signatures: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]
TokenSets: TypeAlias = Sequence[Iterable[str | bytes]] | Sequence[Iterable[int]] | pa.Array | pa.ChunkedArray


@lru_cache(maxsize=8)
def permutations(scheme: str, num_perm: int, seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The factors and terms (num_perm,) that `datasketch.MinHash(num_perm, seed, scheme=scheme)` draws."""
    # Draw from the same generator in the same order as datasketch does: the bits depend on both.
    generator = np.random.RandomState(seed)
    if scheme == "legacy":
        prime = np.uint64((1 << 61) - 1)
        draws = [
            (generator.randint(1, prime, dtype=np.uint64), generator.randint(0, prime, dtype=np.uint64))
            for _ in range(num_perm)
        ]
        pairs = np.array(draws, np.uint64).reshape(num_perm, 2)
        return pairs[:, 0].copy(), pairs[:, 1].copy()
    # Odd factors, which make the map a bijection: the draw is doubled, plus one.
    width, dtype = (32, np.uint32) if scheme == "affine32" else (64, np.uint64)
    factors = generator.randint(0, 1 << (width - 1), num_perm, dtype=dtype).astype(np.uint64)
    terms = generator.randint(0, 1 << width, num_perm, dtype=dtype).astype(np.uint64)
    return factors * np.uint64(2) + np.uint64(1), terms


def minhash_texts(
    texts: Texts,
    *,
    scheme: str,
    num_perm: int,
    seed: int,
    shingles: str,
    ngram: int,
    hash: str | None,
    threads: int,
) -> Signatures:
    """`minhash` for a scheme of datasketch: each shingle of a text (its UTF-8, tokens joined by a space) is an element.

    Raises:
        ValueError: an impossible parameter.
    """
    arguments = _arguments(scheme, num_perm, seed, hash)
    parts = [
        _C.dedup_datasketch(piece.data, piece.offsets, shingles, ngram, *arguments, threads)
        for piece in text_buffers(texts)
    ]
    return _joined(parts, scheme, num_perm)


def minhash_sets(
    sets: TokenSets,
    *,
    scheme: str = "datasketch",
    num_perm: int = NUM_PERM,
    seed: int = SEED,
    hash: str | None = None,
    threads: int = 0,
) -> Signatures:
    """The signatures that datasketch gives sets which you make yourself: row i is `m.hashvalues` after
    `m = MinHash(num_perm, seed, scheme=...)` and `m.update(element)` for every element of set i.

    Args:
        sets: a sequence of iterables, or an Arrow list array, which is read where it lies. The elements are strings
            or bytes (a string counts as its UTF-8), or hash values with `hash="given"`.
        scheme: "datasketch" (the one before datasketch 2.0, there now "legacy"), "datasketch-affine32" or
            "datasketch-affine64".
        num_perm, seed: as in datasketch.
        hash: "sha1" (sha1_hash32), "sha1-64" (sha1_hash64), or "given". The default is that of datasketch: sha1-64
            for affine64, sha1 for the others.
        threads: 0 means all cores.

    Returns:
        (sets, num_perm), uint32 for affine32, else uint64. All lanes of an empty set are 2^32 - 1 (affine64: 2^64 - 1).

    Raises:
        ValueError: an impossible parameter, a null, or an element that is no string (with "given": no integer, or one
            too large for the scheme).
    """
    arguments = _arguments(scheme, num_perm, seed, hash, given=True)
    workers = thread_count(threads)
    # One array of signatures per chunk of sets.
    parts = []
    for array in _list_arrays(sets, pa.uint64() if hash == GIVEN else pa.large_binary()):
        # Set i has the elements bounds[i]:bounds[i + 1] of the chunk's values.
        bounds = np.asarray(array.offsets, np.int64)
        if hash == GIVEN:
            values = np.asarray(array.values, np.uint64)
            if scheme == "datasketch-affine32" and values.size and int(values.max()) >= 1 << 32:
                raise ValueError(f"sets: hash value {values.max()} has more than the 32 bits of datasketch-affine32")
            parts.append(_C.dedup_datasketch_hashes(values, bounds, *arguments, workers))
        else:
            piece = _binary_buffers(array.values)
            parts.append(_C.dedup_datasketch_sets(piece.data, piece.offsets, bounds, *arguments, workers))
    return _joined(parts, scheme, num_perm)


def _arguments(
    scheme: str, num_perm: int, seed: int, hash: str | None, given: bool = False
) -> tuple[str, NDArray[np.uint64], NDArray[np.uint64], bool]:
    """The arguments that all the C++ functions take; a `ValueError` names the parameter that is impossible."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme: {scheme!r} is none of {', '.join(SCHEMES)}")
    kind = SCHEMES[scheme]
    if not isinstance(num_perm, SupportsIndex) or not 1 <= num_perm <= MAX_LANES:
        raise ValueError(f"num_perm: {num_perm!r} is not in 1..{MAX_LANES}")
    if not isinstance(seed, SupportsIndex) or not 0 <= seed < 1 << 32:
        raise ValueError(f"seed: {seed!r} is not an unsigned 32-bit number, which datasketch's generator needs")
    # Whether hash values have 64 bits.
    if hash is None:
        wide = kind == "affine64"
    elif hash == GIVEN and given:
        wide = kind != "affine32"
    elif hash in HASHES:
        wide = HASHES[hash]
    else:
        raise ValueError(f"hash: {hash!r} is none of {', '.join([*HASHES, *([GIVEN] if given else [])])}")
    if wide and kind == "affine32":
        raise ValueError(f"hash: {hash} has 64 bits and {scheme} takes 32; use datasketch-affine64")
    return (kind, *permutations(kind, num_perm, seed), wide)


def _joined(parts: list[Any], scheme: str, num_perm: int) -> Signatures:
    """The signatures of consecutive parts as one array; a single part is not copied."""
    if len(parts) == 1:
        return parts[0]  # type: ignore[no-any-return]
    dtype = np.uint32 if scheme == "datasketch-affine32" else np.uint64
    return np.concatenate([np.empty((0, num_perm), dtype), *parts])


def _list_arrays(sets: TokenSets, element: pa.DataType) -> list[pa.LargeListArray]:
    """The sets as Arrow lists of `element`; Arrow converts other types where it can."""
    if isinstance(sets, str | bytes):
        raise ValueError("sets: a single string; give a sequence of sets")
    try:
        if not isinstance(sets, pa.Array | pa.ChunkedArray):
            # Python objects: all elements in one flat array, and bounds between the sets.
            members = [_members(one) for one in sets]
            bounds = np.zeros(len(members) + 1, np.int64)
            np.cumsum([len(one) for one in members], out=bounds[1:])
            values = pa.array(list(chain.from_iterable(members)), element)
            arrays = [pa.LargeListArray.from_arrays(pa.array(bounds), values)]
        else:
            chunks = sets.chunks if isinstance(sets, pa.ChunkedArray) else [sets]
            arrays = [chunk.cast(pa.large_list(element)) for chunk in chunks]
    except (pa.ArrowException, TypeError, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"sets: not sets of {'integers' if element == pa.uint64() else 'strings'} ({error})") from None
    for array in arrays:
        # Arrow would give a null set no elements, and a null element no bytes; both are rather a mistake of the caller.
        if array.null_count or array.values.null_count:
            raise ValueError("sets: a set or an element is null")
    return arrays


def _members(one: Iterable[Any]) -> Any:
    """The elements of one set as a collection that has a length."""
    if isinstance(one, str | bytes):  # its characters are hardly what the caller means
        raise TypeError("an element is a single string")
    return one if isinstance(one, list | tuple | set | frozenset) else list(one)


def _binary_buffers(values: pa.LargeBinaryArray) -> TextBuffers:
    """The buffers of an Arrow array, without a copy. Only a slice of its offsets is taken, for it may be a slice."""
    _, offsets, data = values.buffers()
    if offsets is None or offsets.size == 0:
        return TextBuffers(b"", np.zeros(1, np.int64))
    view = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return TextBuffers(b"" if data is None else memoryview(data), view)
