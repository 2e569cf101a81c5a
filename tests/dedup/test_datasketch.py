"""Signatures bit for bit datasketch's: against the package itself, and SHA-1 against hashlib."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from datasketch.hashfunc import sha1_hash32, sha1_hash64
from helpers.corpus_builder import stdlib_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup import minhash, minhash_sets
from codeshell.dedup.datasketch import permutations

LEVELS = ("scalar", "avx2", "avx512")  # a level that this processor lacks runs as the next lower one
PEERS = {"datasketch": "legacy", "datasketch-affine32": "affine32", "datasketch-affine64": "affine64"}
FUNCTIONS = {"sha1": sha1_hash32, "sha1-64": sha1_hash64}


def peer(sets: list[list[bytes]], scheme: str, **keywords: Any) -> NDArray[Any]:
    return np.array([m.hashvalues for m in MinHash.bulk(sets, scheme=PEERS[scheme], **keywords)])


def same(ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


token_sets = st.lists(st.lists(st.binary(max_size=30) | st.binary(min_size=40, max_size=300), max_size=40), max_size=6)


@pytest.mark.parametrize("scheme", PEERS)
@settings(max_examples=40, deadline=None)
@given(sets=token_sets, num_perm=st.integers(1, 140), seed=st.integers(0, 2**32 - 1))
def test_sets_of_bytes(scheme: str, sets: list[list[bytes]], num_perm: int, seed: int) -> None:
    ours = minhash_sets(sets, scheme=scheme, num_perm=num_perm, seed=seed)
    assert ours.shape == (len(sets), num_perm)
    if sets:
        same(ours, peer(sets, scheme, num_perm=num_perm, seed=seed))


@pytest.mark.parametrize(("scheme", "hash"), [("datasketch", "sha1-64"), ("datasketch-affine64", "sha1")])
def test_the_other_hash_function(scheme: str, hash: str) -> None:
    sets = [[f"{i} {j}".encode() for j in range(i)] for i in range(20)]
    same(minhash_sets(sets, scheme=scheme, hash=hash), peer(sets, scheme, hashfunc=FUNCTIONS[hash]))


@pytest.mark.parametrize("level", LEVELS)
def test_sha1_of_every_length(level: str) -> None:
    """Lanes of a one-element set under a = 1, b = 0 are the hash itself."""
    data = np.random.default_rng(0).bytes(400)
    messages = [data[:size] for size in range(330)] * 2
    offsets = np.cumsum([0, *map(len, messages)])
    one, zero = np.ones(1, np.uint64), np.zeros(1, np.uint64)
    for bounds in (np.arange(len(messages) + 1), np.array([0, len(messages)])):
        found = _C.dedup_datasketch_sets(
            b"".join(messages), offsets, bounds, "legacy", one, zero, False, 1, level
        ).ravel()
        hashes = np.array([int.from_bytes(hashlib.sha1(m).digest()[:4], "little") for m in messages], np.uint64)
        np.testing.assert_array_equal(found, hashes if len(bounds) > 2 else [hashes.min()])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scheme", PEERS)
def test_every_instruction_set(scheme: str, level: str) -> None:
    """Hash values at the ends of the range: there the sum wraps, and the remainder is 0 or the prime less 1."""
    kind = PEERS[scheme]
    values = np.array(
        [0, 1, 2**31, 2**32 - 1] + [2**61 - 2, 2**61 - 1, 2**61, 2**64 - 1] * (kind != "affine32"), np.uint64
    )
    a, b = permutations(kind, 67, 9)
    if kind == "legacy":
        prime = np.uint64(2**61 - 1)
        a[:4], b[:4] = 1, [0, prime - np.uint64(1), prime, 2**64 - 1]
        with np.errstate(over="ignore"):
            expected = (values[:, None] * a + b) % prime & np.uint64(2**32 - 1)
        for i, value in enumerate(values):
            found = _C.dedup_datasketch_hashes(values[i : i + 1], np.array([0, 1]), kind, a, b, True, 1, level)
            np.testing.assert_array_equal(found[0], expected[i], err_msg=str(value))
    wide = kind != "affine32"
    found = _C.dedup_datasketch_hashes(values, np.array([0, 0, len(values)]), kind, a, b, wide, 1, level)
    m = MinHash(scheme=kind, permutations=np.array([a, b], found.dtype), hashfunc=int, hashvalues=found[0])
    np.testing.assert_array_equal(found[0], MinHash(num_perm=67, scheme=kind).hashvalues)
    m.update_batch(values)
    same(found[1], m.hashvalues)


def code_shingles(text: str, n: int = 5) -> set[str]:
    tokens = re.findall("[A-Za-z0-9_]+", text)  # of ASCII texts
    return {" ".join(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))} if tokens else set()


def starcoder_shingles(text: str, n: int = 5) -> set[str]:
    tokens = re.split("[^A-Za-z_0-9]", text)
    return {" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def stack_v2_shingles(text: str, n: int = 5) -> set[str]:
    tokens = re.split(r"\W", text.lower())
    return {" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def character_shingles(text: str, n: int = 24) -> set[str]:
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))} if text else set()


@pytest.mark.parametrize("scheme", ["datasketch", "datasketch-affine32"])
@pytest.mark.parametrize(
    ("shingles", "split"),
    [
        ("code", code_shingles),
        ("starcoder", starcoder_shingles),
        ("stack-v2", stack_v2_shingles),
        ("char-24", character_shingles),
    ],
)
def test_texts(scheme: str, shingles: str, split: Any) -> None:
    texts = [text for text in stdlib_texts(8, 8_000) if text.isascii()] + ["one two", ""]
    sets = [[shingle.encode() for shingle in split(text)] for text in texts]
    wanted = peer(sets, scheme, num_perm=64, seed=3)
    same(minhash(texts, scheme=scheme, num_perm=64, seed=3, shingles=shingles), wanted)
    same(minhash(texts, scheme=scheme, num_perm=64, seed=3, shingles=shingles, threads=2), wanted)
    column = pa.chunked_array([pa.array(texts[:3]), pa.array(texts[3:])])
    same(minhash(column, scheme=scheme, num_perm=64, seed=3, shingles=shingles), wanted)


def test_texts_beyond_ascii() -> None:
    texts = ["na\u00efve \u4e2d\u6587 \u0130x \u03a3\u03c3 d\u00e9j\u00e0 vu \U0001f600 end", "\u00e9" * 30]
    for shingles, split in (("stack-v2", stack_v2_shingles), ("char-24", character_shingles)):
        sets = [[s.encode() for s in split(text)] if len(split(text)) else [] for text in texts]
        if shingles == "stack-v2":
            sets[1] = []  # fewer than five tokens
        same(minhash(texts, scheme="datasketch", shingles=shingles), peer(sets, "datasketch"))
    # Kana, Han and Hangul are tokens by themselves; letters beyond ASCII end a run of ASCII ones.
    tokens = ["na", "ï", "ve", "中", "文", "İ", "x", "Σσ", "d", "é", "j", "à", "vu", "end"]
    sets = [[" ".join(tokens[i : i + 5]).encode() for i in range(len(tokens) - 4)], [texts[1].encode()]]
    same(minhash(texts, scheme="datasketch"), peer(sets, "datasketch"))


def test_strings_bytes_and_arrow_are_the_same_sets() -> None:
    sets = [["a", "\u00e9", "b c"], [], ["d"] * 3, ["x"]]
    wanted = peer([[token.encode() for token in one] for one in sets], "datasketch")
    same(minhash_sets(sets), wanted)
    same(minhash_sets([{t.encode() for t in one} for one in sets]), wanted)
    same(minhash_sets([(t for t in one) for one in sets]), wanted)
    for kind in (pa.list_(pa.string()), pa.large_list(pa.large_binary()), pa.list_(pa.binary())):
        array = pa.array(sets, kind)
        same(minhash_sets(array), wanted)
        same(minhash_sets(array[1:]), wanted[1:])
        same(minhash_sets(pa.chunked_array([array[:1], array[1:3], array[3:]])), wanted)
    assert minhash_sets([]).shape == minhash_sets(pa.chunked_array([], pa.list_(pa.string()))).shape == (0, 128)


def test_given_hash_values() -> None:
    sets = [[1, 2, 2**32 - 1], [], [7]]
    for scheme, kind in PEERS.items():
        theirs = np.array([m.hashvalues for m in MinHash.bulk(sets, scheme=kind, hashfunc=int)])
        same(minhash_sets(sets, scheme=scheme, hash="given"), theirs)
        same(minhash_sets(pa.array(sets, pa.list_(pa.uint32())), scheme=scheme, hash="given"), theirs)
    with pytest.raises(ValueError, match="32 bits of datasketch-affine32"):
        minhash_sets([[2**32]], scheme="datasketch-affine32", hash="given")


def test_bigcodes_script_for_the_stack_v1() -> None:
    """Its formula: legacy permutations of seed 42, SHA-1 of the shingles; a text of fewer than five tokens has none."""
    generator, prime = np.random.RandomState(42), np.uint64(2**61 - 1)
    bounds = [(low, prime) for _ in range(256) for low in (1, 0)]
    a, b = np.array([generator.randint(*bound, dtype=np.uint64) for bound in bounds]).reshape(256, 2).T
    texts = [*stdlib_texts(3, 5_000), "too short"]
    wanted = np.full((4, 256), 2**32 - 1, np.uint64)
    for row, text in zip(wanted, texts, strict=True):
        hashes = np.array([sha1_hash32(shingle.encode()) for shingle in starcoder_shingles(text)], np.uint64)
        lanes = (hashes[:, None] * a + b) % prime & np.uint64(2**32 - 1)
        row[:] = np.vstack([lanes, row]).min(axis=0)
    same(minhash(texts, scheme="datasketch", shingles="starcoder", num_perm=256, seed=42), wanted)


def test_a_stored_index_finds_new_texts() -> None:
    old = "def area(r):\n    return 3.14159 * r * r  # of a circle, whose radius is given in metres"
    index = MinHashLSH(threshold=0.5, num_perm=128)
    stored = MinHash(num_perm=128)
    stored.update_batch([s.encode() for s in code_shingles(old)])
    index.insert("old", stored)
    (row,) = minhash([old + "!"], scheme="datasketch-affine32")
    assert index.query(MinHash(hashvalues=row, scheme="affine32")) == ["old"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"scheme": "legacy"}, "scheme: 'legacy' is none of"),
        ({"num_perm": 0}, "num_perm: 0 is not in"),
        ({"num_perm": 1 << 20}, "num_perm"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 1 << 32}, "32-bit"),
        ({"hash": "md5"}, "hash: 'md5' is none of"),
        ({"hash": "sha1-64", "scheme": "datasketch-affine32"}, "takes 32"),
        ({"threads": -1}, "threads"),
    ],
)
def test_impossible_parameters(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minhash_sets([["a"]], **keywords)
    with pytest.raises(ValueError, match=message):
        minhash(["a b"], **{"scheme": "datasketch", **keywords})


def test_things_that_are_no_sets() -> None:
    for sets in ([[1]], [["a", None]], [None], "ab", ["\ud800"], pa.array([["a"], None]), pa.array(["a"])):
        with pytest.raises(ValueError, match="sets"):
            minhash_sets(sets)
    with pytest.raises(ValueError, match="hash: 'given'"):
        minhash(["a"], scheme="datasketch", hash="given")
    with pytest.raises(ValueError, match="hash"):
        minhash(["a"], hash="sha1")
    with pytest.raises(ValueError, match="num_perm"):
        minhash(["a"], num_perm=0)
    assert minhash(["a"], num_perm=10).shape == (1, 10)


def test_a_string_is_no_set() -> None:
    """Its characters would be the elements: hardly what is meant by a list of texts."""
    with pytest.raises(ValueError, match=r"sets: not sets of strings .an element is a single string"):
        minhash_sets(["a text", "another"])
