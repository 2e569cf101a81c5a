"""`dedup_sign` against a slow Python reading of csrc/dedup/sign.h, and against itself at every level and cut."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from helpers.corpus_builder import stdlib_texts
from helpers.shingle_definitions import LEVELS, MASK, TEXT, mix64, slow_key, slow_shingles, slow_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.minhash import SHINGLES, Signed, sign
from codeshell.documents.texts import text_buffers

Arrays = tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint32]]


@dataclass
class Parameters:
    bands: int = 21
    rows: int = 6
    ngram: int = 5
    seed: int = 0
    shingles: str = "code"


def signed(data: bytes, offsets: list[int], p: Parameters, threads: int = 1, level: str = "") -> Arrays:
    bounds = np.array(offsets, np.int64)
    return _C.dedup_sign(data, bounds, p.shingles, p.ngram, p.bands, p.rows, p.seed, threads, level)


def batch(texts: list[bytes]) -> tuple[bytes, list[int]]:
    return b"".join(texts), [0, *itertools.accumulate(len(text) for text in texts)]


def equal(a: Arrays, b: Arrays) -> bool:
    return all(x.dtype == y.dtype and x.shape == y.shape and bool((x == y).all()) for x, y in zip(a, b, strict=True))


def slow_fingerprint(data: bytes, shingles: list[int]) -> list[int]:
    if shingles:
        plain = sum(shingles) & MASK
        product = sum((s & 0xFFFFFFFF) * (s >> 32) for s in shingles) & MASK
    else:
        plain, product = ~len(data) & MASK, len(data)
        for at in range(0, len(data), 8):
            word = int.from_bytes(data[at : at + 8], "little")
            plain, product = mix64(plain ^ word), mix64((product + word) & MASK)
    first = mix64(plain ^ mix64(len(shingles)))
    return [first, mix64(product ^ first)]


def check(data: bytes, shingles: list[int], p: Parameters) -> None:
    """Every array at every level is that of the definition."""
    lanes = slow_signature(shingles, p.bands * p.rows, p.seed)
    bands = [slow_key(lanes[p.rows * b : p.rows * (b + 1)], b) if shingles else 0 for b in range(p.bands)]
    sketch = [lane & 255 for lane in lanes] + [0] * (-len(lanes) % 64)
    for level in LEVELS:
        keys, sketches, fingerprints, counts = signed(data, [0, len(data)], p, level=level)
        assert [keys.dtype, sketches.dtype, fingerprints.dtype, counts.dtype] == [np.uint64, "u1", np.uint64, "u4"]
        assert keys.tolist() == [bands]
        assert sketches.tolist() == [sketch]
        assert fingerprints.tolist() == [slow_fingerprint(data, shingles)]
        assert counts.tolist() == [len(shingles)]


@settings(max_examples=40, deadline=None)
@given(TEXT, st.integers(1, 30), st.integers(1, 9), st.integers(1, 20), st.integers(0, MASK))
def test_sign_is_that_of_the_definition(text: str, bands: int, rows: int, ngram: int, seed: int) -> None:
    check(text.encode(), slow_shingles(text, ngram), Parameters(bands, rows, ngram, seed))


@pytest.mark.parametrize("filler", ["x", " ", "é", "一", "a ", "aé", "a一"])
def test_tokens_across_the_cuts_of_a_text(filler: str) -> None:
    """The C++ reads 4,096 bytes at a time, the last ones from a copy: tokens and characters that lie across."""
    tail = "été 日本語x identifier_of_more_than_sixteen_bytes ß"
    for before in (*range(4080, 4100), 4159, 4160, 4161, 8190, 8193):
        text = filler * (before // len(filler.encode()))
        text += " " * (before - len(text.encode())) + tail
        found = _C.dedup_shingle_sets(text.encode(), np.array([0, len(text.encode())]), 3)[0]
        assert found.tolist() == sorted(set(slow_shingles(text, 3)))


def test_texts_of_many_chunks_and_long_shingles() -> None:
    """Shingles of a few tokens are summed anew, those of more roll on, from chunk to chunk; both by the definition."""
    text = "".join(f"t{i * i} = {i};\n" for i in range(1500))
    for ngram in (1, 2, 16, 17, 900, 5000):
        check(
            text.encode(), slow_shingles(text, ngram) if ngram <= 17 else rolled(text, ngram), Parameters(2, 2, ngram)
        )


def rolled(text: str, ngram: int) -> list[int]:
    """`slow_shingles` for long shingles: by Horner's rule over prefixes instead of over every shingle."""
    factor = 0x9E3779B97F4A7C15
    hashes = [_token(word) for word in text.replace("=", " ").replace(";", " ").split()]
    prefixes = [0]
    for value in hashes:
        prefixes.append((prefixes[-1] * factor + value) & MASK)
    size = min(ngram, len(hashes))
    power = pow(factor, size, 1 << 64)
    return [mix64((prefixes[i + size] - prefixes[i] * power) & MASK) for i in range(len(hashes) - size + 1)]


def _token(word: str) -> int:
    assert len(word) <= 8
    return mix64(int.from_bytes(word.encode(), "little"))


JUNK = st.lists(
    st.one_of(
        st.binary(max_size=40), st.sampled_from([b"\0", b"word ", b"\xe4\xb8", b"\xff" * 70, b"a" * 5000, b"\n"])
    ),
    max_size=8,
).map(b"".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(JUNK, max_size=6), st.integers(0, 5), st.integers(2, 4))
def test_level_threads_and_cuts_change_nothing(texts: list[bytes], cut: int, threads: int) -> None:
    """Any bytes; a text's bits do not depend on its neighbours in the buffer either."""
    p = Parameters(bands=5, rows=13)
    many = texts * 9
    data, offsets = batch(many)
    expected = signed(data, offsets, p, level="scalar")
    for level in LEVELS:
        assert equal(signed(data, offsets, p, threads, level), expected)
    parts = [signed(*batch(part), p) for part in (many[:cut], many[cut:])]
    joined = tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert equal(joined, expected)  # type: ignore[arg-type]
    alone = [signed(text, [0, len(text)], p) for text in texts]
    for column, array in zip(zip(*alone, strict=True), expected, strict=False):
        assert (np.concatenate(column) == array[: len(texts)]).all()


def test_levels_agree_on_real_files() -> None:
    data, offsets = batch([text.encode() for text in stdlib_texts(40)])
    found = [signed(data, offsets, Parameters(), threads, level) for level in LEVELS for threads in (1, 3)]
    assert all(equal(one, found[0]) for one in found)


def test_fingerprints_are_of_the_multiset() -> None:
    def fingerprint(text: str, ngram: int = 1) -> tuple[int, int]:
        data = text.encode()
        first, second = signed(data, [0, len(data)], Parameters(2, 2, ngram))[2][0].tolist()
        return first, second

    assert fingerprint("a b b c") == fingerprint("c,b;a\nb")
    different = ["a b b c", "a b c", "a b c c", "a a b c", "abc", "", " ", "  ", "\n", "\n ", "\0", "a", "a a", "A"]
    assert len({fingerprint(text) for text in different}) == len(different)
    assert fingerprint("a b c d e f", 5) != fingerprint("a b c d f e", 5)


def test_fingerprints_of_many_texts_differ() -> None:
    """Small texts of few kinds of tokens: sums of the same few shingles, where structure would collide."""
    texts = [" ".join(tokens).encode() for n in range(1, 9) for tokens in itertools.product("ab0", repeat=n)]
    for ngram in (1, 2):
        kinds = {
            tuple(sorted(tuple(words[i : i + ngram]) for i in range(max(len(words) - ngram, 0) + 1)))
            for words in (text.split() for text in texts)
        }
        prints = signed(*batch(texts), Parameters(1, 1, ngram))[2]
        assert len(np.unique(prints, axis=0)) == len(kinds)
        assert len(np.unique(prints[:, 0])) == len(np.unique(prints[:, 1])) == len(kinds)


def test_golden() -> None:
    """The format: stored signatures and indexes are readable as long as this holds."""
    data = b"def f(x):\n    return x + 1\n"
    keys, sketches, fingerprints, counts = signed(data, [0, len(data), len(data)], Parameters(bands=2, rows=2))
    assert keys.tolist() == [[4817880046588611906, 12950962262086241030], [0, 0]]
    assert sketches[:, :5].tolist() == [[129, 150, 97, 6, 0], [255, 255, 255, 255, 0]]
    assert fingerprints.tolist() == [
        [14161169642949636028, 6202842092886658467],
        [13029008266876403067, 5476333178966447588],
    ]
    assert counts.tolist() == [2, 0]


def test_huge_documents() -> None:
    """One token of 20 MB, 20 MB of separators, a tiny text after them; memory is not that of the text."""
    size = 20 << 20
    for byte in (b"x", b"\xff", b" "):
        data = byte * size + b"a b"
        _, _, fingerprints, counts = signed(data, [0, size, size + 3], Parameters(2, 2))
        assert counts.tolist() == [int(byte == b"x"), 1]
        assert fingerprints[1].tolist() == slow_fingerprint(b"a b", slow_shingles("a b", 5))


def test_wrapper() -> None:
    (piece,) = text_buffers(["a b c d e f", "", "x"])
    result = sign(piece, Parameters(), threads=2)
    assert isinstance(result, Signed)
    assert result.keys.shape == (3, 21)
    assert result.sketches.shape == (3, 128)
    assert result.fingerprints.shape == (3, 2)
    assert result.shingles.tolist() == [2, 0, 1]
    for empty in text_buffers([]):
        assert [array.shape for array in sign(empty, Parameters(bands=8, rows=8))] == [(0, 8), (0, 64), (0, 2), (0,)]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (Parameters(shingles="five"), "preset: 'five' is none of code, starcoder, stack-v2, datatrove, char-24"),
        (Parameters(ngram=0), "ngram"),
        (Parameters(bands=0), "bands"),
        (Parameters(rows=0), "rows"),
        (Parameters(bands=1 << 20, rows=1 << 20), r"bands \* rows"),
    ],
)
def test_impossible_parameters(parameters: Parameters, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        signed(b"abc", [0, 3], parameters)


def test_the_presets_are_signed_too() -> None:
    """What a preset's shingles are is another test's matter: here that their signatures are made of them."""
    text = "The quick brown fox jumps over the lazy dog, and then some more words follow it."
    data = text.encode()
    for preset in SHINGLES:
        p = Parameters(2, 3, 24 if preset == "char-24" else 5, shingles=preset)
        shingles = _C.dedup_shingle_sets(data, np.array([0, len(data)]), p.ngram, preset=preset)[0].tolist()
        assert len(shingles) > 3
        lanes = _C.dedup_minhash(data, np.array([0, len(data)]), p.ngram, 6, 0, preset=preset)
        assert lanes.tolist() == [slow_signature(shingles, 6, 0)]
        keys, _, fingerprints, counts = signed(data, [0, len(data)], p)
        assert keys.tolist() == [[slow_key(lanes[0].tolist()[:3], 0), slow_key(lanes[0].tolist()[3:], 1)]]
        assert counts.tolist() == [len(shingles)]
        assert fingerprints.tolist() == [slow_fingerprint(data, shingles)]
